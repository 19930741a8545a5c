// The part of Markdown that models write, as plain data; a component draws it, so nothing becomes HTML unseen.

export type Inline =
	| { kind: 'text' | 'code' | 'strong' | 'em'; text: string }
	| { kind: 'link'; text: string; href: string };
export type Block =
	| { kind: 'code'; text: string; language: string }
	| { kind: 'heading'; level: number; inline: Inline[] }
	| { kind: 'quote' | 'paragraph'; inline: Inline[] }
	| { kind: 'list'; ordered: boolean; start: number; items: { depth: number; inline: Inline[] }[] }
	| { kind: 'table'; rows: Inline[][][] }
	| { kind: 'rule' };

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)/;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;

export function blocks(source: string): Block[] {
	const lines = source.replace(/\r\n?/g, '\n').split('\n');
	const found: Block[] = [];
	let paragraph: string[] = [];
	const flush = () => {
		if (paragraph.length) found.push({ kind: 'paragraph', inline: inline(paragraph.join('\n')) });
		paragraph = [];
	};
	for (let i = 0; i < lines.length; i++) {
		const line = lines[i] ?? '';
		const fence = FENCE.exec(line);
		if (fence) {
			flush();
			const code: string[] = [];
			// A fence that is still being written ends with the text.
			for (i++; i < lines.length && !(lines[i] ?? '').trim().startsWith(fence[1] ?? '```'); i++) code.push(lines[i] ?? '');
			found.push({ kind: 'code', text: code.join('\n'), language: fence[2] ?? '' });
			continue;
		}
		const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
		const item = ITEM.exec(line);
		if (!line.trim()) flush();
		else if (heading) {
			flush();
			found.push({ kind: 'heading', level: heading[1]?.length ?? 1, inline: inline(heading[2] ?? '') });
		} else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
			flush();
			found.push({ kind: 'rule' });
		} else if (item && (paragraph.length === 0 || item[2] === undefined || item[2] === '1')) {
			flush();
			const list = { kind: 'list' as const, ordered: item[2] !== undefined, start: Number(item[2] ?? 1), items: [] as { depth: number; inline: Inline[] }[] };
			const texts: { depth: number; text: string }[] = [];
			for (; i < lines.length; i++) {
				const next = ITEM.exec(lines[i] ?? '');
				const last = texts[texts.length - 1];
				if (next) texts.push({ depth: Math.min(4, Math.floor((next[1] ?? '').length / 2)), text: next[3] ?? '' });
				else if (last && /^\s+\S/.test(lines[i] ?? '')) last.text += '\n' + (lines[i] ?? '').trim();
				else break;
			}
			i--;
			list.items = texts.map(({ depth, text }) => ({ depth, inline: inline(text) }));
			found.push(list);
		} else if (/^\s*\|.*\|\s*$/.test(line) && /^\s*\|[\s:|-]+\|\s*$/.test(lines[i + 1] ?? '')) {
			flush();
			const rows: Inline[][][] = [];
			for (let row = i; row < lines.length && /^\s*\|.*\|\s*$/.test(lines[row] ?? ''); row++, i = row - 1) {
				if (/^\s*\|[\s:|-]+\|\s*$/.test(lines[row] ?? '')) continue;
				rows.push((lines[row] ?? '').trim().slice(1, -1).split('|').map((cell) => inline(cell.trim())));
			}
			found.push({ kind: 'table', rows });
		} else if (line.startsWith('>')) {
			flush();
			const quoted: string[] = [];
			for (; i < lines.length && (lines[i] ?? '').startsWith('>'); i++) quoted.push((lines[i] ?? '').replace(/^> ?/, ''));
			i--;
			found.push({ kind: 'quote', inline: inline(quoted.join('\n')) });
		} else paragraph.push(line);
	}
	flush();
	return found;
}

const INLINE = /(`+)(.+?)\1|\*\*(?=\S)(.+?)\*\*|(?<![\w*])\*(?=[^\s*])(.+?)(?<=\S)\*(?![\w*])|\[([^\]\n]+)\]\(([^()\s]+)\)|(https?:\/\/[^\s<>()]*[^\s<>().,;:!?'"`])/gs;

export function inline(text: string): Inline[] {
	const found: Inline[] = [];
	let end = 0;
	for (const match of text.matchAll(INLINE)) {
		if (match.index > end) found.push({ kind: 'text', text: text.slice(end, match.index) });
		end = match.index + match[0].length;
		const [whole, , code, strong, em, label, target, url] = match;
		if (code !== undefined) found.push({ kind: 'code', text: code });
		else if (strong !== undefined) found.push({ kind: 'strong', text: strong });
		else if (em !== undefined) found.push({ kind: 'em', text: em });
		else if (url !== undefined) found.push({ kind: 'link', text: url, href: url });
		else if (label !== undefined && target !== undefined && /^https?:\/\//.test(target))
			found.push({ kind: 'link', text: label, href: target });
		else found.push({ kind: 'text', text: whole });
	}
	if (end < text.length) found.push({ kind: 'text', text: text.slice(end) });
	return found;
}
