import { expect, test } from 'vitest';
import { marked, markedAt, wordsOf } from './marks';

const shown = (parts: { text: string; found: boolean }[]) => parts.map(({ text, found }) => (found ? `[${text}]` : text)).join('');

test('words are marked wherever they stand, in any case, as they are written', () => {
	expect(shown(marked('Raise the price: PRICE = 10', wordsOf(' price  the ')))).toBe('Raise [the] [price]: [PRICE] = 10');
	expect(shown(marked('a.b (c) axb', wordsOf('a.b (c)')))).toBe('[a.b] [(c)] axb');
	expect(shown(marked('nothing', []))).toBe('nothing');
});

test('places are counted in characters, whatever a string takes for each', () => {
	expect(shown(markedAt('🙂🙂 ja, ä', [[3, 5], [7, 8]]))).toBe('🙂🙂 [ja], [ä]');
	expect(shown(markedAt('short', [[2, 99]]))).toBe('sh[ort]');
});
