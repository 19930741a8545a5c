// How values and outputs are written.

// eslint-disable-next-line no-control-regex
const ANSI = /\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

/** What a terminal would show: no colours, and of a line that was overwritten its last state. */
export function plain(output: string): string {
	const text = output.replace(ANSI, '').replace(/\r+\n/g, '\n');
	if (!text.includes('\r')) return text;
	return text
		.split('\n')
		.map((line) => line.slice(line.lastIndexOf('\r', line.length - 2) + 1).replace(/\r$/, ''))
		.join('\n');
}

export type Folded = { text: string; hidden: number };

/** The last lines of an output; a few more rather than a fold that hides next to nothing. */
export function tail(text: string, most: number): Folded {
	const lines = text.replace(/\n$/, '').split('\n');
	const hidden = lines.length - most;
	return hidden > 3 ? { text: lines.slice(hidden).join('\n'), hidden } : { text: lines.join('\n'), hidden: 0 };
}

/** The first lines of a text. */
export function head(text: string, most: number): Folded {
	const lines = text.replace(/\n$/, '').split('\n');
	const hidden = lines.length - most;
	return hidden > 3 ? { text: lines.slice(0, most).join('\n'), hidden } : { text: lines.join('\n'), hidden: 0 };
}

export function duration(ms: number): string {
	if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
	const s = ms / 1000;
	if (s < 10) return `${s.toFixed(1)} s`;
	if (s < 60) return `${Math.floor(s)} s`;
	const pad = (n: number) => String(Math.floor(n)).padStart(2, '0');
	if (s < 3600) return `${Math.floor(s / 60)} m ${pad(s % 60)} s`;
	return `${Math.floor(s / 3600)} h ${pad((s / 60) % 60)} m`;
}

export function count(n: number): string {
	if (n < 1000) return String(n);
	if (n < 10_000) return `${(n / 1000).toFixed(1)}k`;
	if (n < 1_000_000) return `${Math.round(n / 1000)}k`;
	return `${(n / 1_000_000).toFixed(1)}M`;
}

export function bytes(n: number): string {
	if (n < 1024) return `${n} B`;
	if (n < 1024 * 1024) return `${Math.round(n / 1024)} kB`;
	return `${(n / 1024 / 1024).toFixed(1)} MB`;
}

export const money = (usd: number) => (usd > 0 && usd < 0.01 ? '<$0.01' : `$${usd.toFixed(2)}`);

export const plural = (n: number, word: string) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;

export function ago(time: string | number, now: number): string {
	const s = Math.max(0, (now - new Date(time).getTime()) / 1000);
	if (s < 60) return 'now';
	if (s < 3600) return `${Math.floor(s / 60)} min`;
	if (s < 86_400) return `${Math.floor(s / 3600)} h`;
	if (s < 7 * 86_400) return `${Math.floor(s / 86_400)} d`;
	return new Date(time).toISOString().slice(0, 10);
}

/** How long ago, within a sentence. */
export function since(time: string | number, now: number): string {
	const word = ago(time, now);
	return word === 'now' ? 'just now' : /^\d{4}-/.test(word) ? `on ${word}` : `${word} ago`;
}

export function clock(at: number): string {
	return new Date(at).toTimeString().slice(0, 8);
}

/** A run's line: the beginning of what was asked. */
export const title = (run: { prompt: string }) => firstLine(run.prompt) || 'Run without words';

export function firstLine(text: string): string {
	return text.trim().split('\n', 1)[0]?.trim() ?? '';
}

/** A model's name; of a script the file's, not where it is. */
export const modelName = (model: string) => model.replace(/^scripted:.*\//, 'scripted: ');
