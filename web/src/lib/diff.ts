// Patches as `git diff` writes them, and the difference of two texts.

export type Line = { kind: ' ' | '+' | '-' | '@'; text: string; old?: number; new?: number };
export type FileDiff = {
	path: string;
	/** The earlier path of a renamed or copied file. */
	from?: string;
	/** added, deleted, renamed, copied, changed, or mode. */
	change: string;
	binary: boolean;
	added: number;
	removed: number;
	lines: Line[];
};

/** Undoes git's quoting of unusual paths: "a\\tb", octal bytes of UTF-8. */
function unquote(path: string): string {
	if (!path.startsWith('"') || !path.endsWith('"')) return path;
	const bytes: number[] = [];
	const inner = path.slice(1, -1);
	const encoder = new TextEncoder();
	for (let i = 0; i < inner.length; i++) {
		if (inner[i] !== '\\') {
			const point = inner.codePointAt(i) ?? 0;
			bytes.push(...encoder.encode(String.fromCodePoint(point)));
			if (point > 0xffff) i++;
			continue;
		}
		const octal = /^[0-7]{3}/.exec(inner.slice(i + 1));
		if (octal) {
			bytes.push(parseInt(octal[0], 8));
			i += 3;
		} else {
			const escaped = inner[++i] ?? '';
			const known: Record<string, string> = { n: '\n', t: '\t', r: '\r', a: '\x07', b: '\b', f: '\f', v: '\v' };
			bytes.push(...encoder.encode(known[escaped] ?? escaped));
		}
	}
	return new TextDecoder().decode(new Uint8Array(bytes));
}

const side = (path: string) => unquote(path.replace(/\t$/, '')).replace(/^[ab]\//, '');

/** The files of a patch. What is not understood is left out, never thrown. */
export function parsePatch(patch: string): FileDiff[] {
	const files: FileDiff[] = [];
	let file: FileDiff | undefined;
	let [oldLeft, newLeft, oldNumber, newNumber] = [0, 0, 0, 0];
	for (const text of patch.split('\n')) {
		if (file && (oldLeft > 0 || newLeft > 0)) {
			const sign = text[0] ?? ' ';
			if (sign === '+') {
				file.lines.push({ kind: '+', text: text.slice(1), new: newNumber++ });
				file.added++;
				newLeft--;
			} else if (sign === '-') {
				file.lines.push({ kind: '-', text: text.slice(1), old: oldNumber++ });
				file.removed++;
				oldLeft--;
			} else if (sign !== '\\') {
				file.lines.push({ kind: ' ', text: text.slice(1), old: oldNumber++, new: newNumber++ });
				oldLeft--;
				newLeft--;
			}
			continue;
		}
		if (text.startsWith('diff --git ')) {
			// Both names are the same unless later lines say otherwise, so the line can be cut in the middle.
			const names = text.slice('diff --git '.length);
			const half = names.slice(Math.floor(names.length / 2) + 1);
			file = { path: side(half), change: 'changed', binary: false, added: 0, removed: 0, lines: [] };
			files.push(file);
			continue;
		}
		if (!file) continue;
		const hunk = /^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@(.*)$/.exec(text);
		if (hunk) {
			[oldNumber, newNumber] = [Number(hunk[1]), Number(hunk[3])];
			[oldLeft, newLeft] = [Number(hunk[2] ?? 1), Number(hunk[4] ?? 1)];
			file.lines.push({ kind: '@', text: hunk[5]?.trim() ?? '', old: oldNumber, new: newNumber });
		} else if (text.startsWith('new file')) file.change = 'added';
		else if (text.startsWith('deleted file')) file.change = 'deleted';
		else if (text.startsWith('old mode') && file.change === 'changed') file.change = 'mode';
		else if (text.startsWith('rename from ')) [file.change, file.from] = ['renamed', unquote(text.slice(12))];
		else if (text.startsWith('copy from ')) [file.change, file.from] = ['copied', unquote(text.slice(10))];
		else if (text.startsWith('rename to ')) file.path = unquote(text.slice(10));
		else if (text.startsWith('copy to ')) file.path = unquote(text.slice(8));
		else if (text.startsWith('--- ') && text !== '--- /dev/null') file.path = side(text.slice(4));
		else if (text.startsWith('+++ ') && text !== '+++ /dev/null') file.path = side(text.slice(4));
		else if (text.startsWith('Binary files ') || text === 'GIT binary patch') file.binary = true;
	}
	return files;
}

/** Cells of the table beyond which two texts are shown one after the other, without looking for what they share. */
const LARGEST = 1_000_000;

/** The lines of an edit, with what both texts share as context. */
export function lineDiff(before: string, after: string): Line[] {
	const split = (text: string) => (text === '' ? [] : text.replace(/\n$/, '').split('\n'));
	const [a, b] = [split(before), split(after)];
	let head = 0;
	while (head < a.length && head < b.length && a[head] === b[head]) head++;
	let tail = 0;
	while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail++;
	const lines: Line[] = a.slice(0, head).map((text) => ({ kind: ' ', text }));
	lines.push(...middle(a.slice(head, a.length - tail), b.slice(head, b.length - tail)));
	lines.push(...a.slice(a.length - tail).map((text): Line => ({ kind: ' ', text })));
	return lines;
}

function middle(a: string[], b: string[]): Line[] {
	const minus = (text: string): Line => ({ kind: '-', text });
	const plus = (text: string): Line => ({ kind: '+', text });
	const width = b.length + 1;
	if ((a.length + 1) * width > LARGEST) return [...a.map(minus), ...b.map(plus)];
	// Longest common subsequence, from the end.
	const longest = new Uint32Array((a.length + 1) * width);
	const at = (i: number, j: number) => longest[i * width + j] ?? 0;
	for (let i = a.length - 1; i >= 0; i--)
		for (let j = b.length - 1; j >= 0; j--)
			longest[i * width + j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
	const lines: Line[] = [];
	let [i, j] = [0, 0];
	while (i < a.length || j < b.length) {
		const [left, right] = [a[i], b[j]];
		if (left !== undefined && left === right) {
			lines.push({ kind: ' ', text: left });
			i++;
			j++;
		} else if (left !== undefined && (right === undefined || at(i + 1, j) >= at(i, j + 1))) {
			lines.push(minus(left));
			i++;
		} else {
			lines.push(plus(right ?? ''));
			j++;
		}
	}
	return lines;
}
