// Words that were looked for, marked in what is shown.

/** A part of a text, and whether it was looked for. */
export type Part = { text: string; found: boolean };

/** What someone typed, as the words that are looked for. */
export const wordsOf = (text: string) => text.toLowerCase().split(/\s+/).filter(Boolean);

/** A text with each place of each of these words marked, whatever their case. */
export function marked(text: string, words: string[]): Part[] {
	if (!words.length || !text) return [{ text, found: false }];
	const pattern = new RegExp(words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('|'), 'gi');
	const ranges = [...text.matchAll(pattern)].map((match): [number, number] => [match.index, match.index + match[0].length]);
	return cut(text, ranges);
}

/** A text with places marked that the server gives in characters, which are not the units of a string here. */
export function markedAt(text: string, places: number[][]): Part[] {
	const characters = Array.from(text);
	const ends = [0];
	for (const character of characters) ends.push((ends.at(-1) ?? 0) + character.length);
	return cut(text, places.map(([from = 0, to = 0]): [number, number] => [ends[from] ?? text.length, ends[to] ?? text.length]));
}

function cut(text: string, ranges: [number, number][]): Part[] {
	const parts: Part[] = [];
	let at = 0;
	for (const [from, to] of ranges) {
		if (from > at) parts.push({ text: text.slice(at, from), found: false });
		if (to > from) parts.push({ text: text.slice(from, to), found: true });
		at = Math.max(at, to);
	}
	if (at < text.length) parts.push({ text: text.slice(at), found: false });
	return parts;
}
