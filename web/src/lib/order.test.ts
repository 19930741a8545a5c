import { expect, test } from 'vitest';
import { moved } from './order';

const list = (...positions: number[]) => positions.map((position, index) => ({ id: index + 1, position }));

test('neighbours change places', () => {
	expect(moved(list(1, 4, 9), 2, -1)).toEqual([{ id: 2, position: 1 }, { id: 1, position: 4 }]);
	expect(moved(list(1, 4, 9), 2, 1)).toEqual([{ id: 3, position: 4 }, { id: 2, position: 9 }]);
});

test('those that shared a place get places of their own', () => {
	expect(moved(list(1, 1, 1), 3, -1)).toEqual([{ id: 3, position: 2 }, { id: 2, position: 3 }]);
});

test('at an end nothing moves', () => {
	expect(moved(list(1, 2), 1, -1)).toEqual([]);
	expect(moved(list(1, 2), 2, 1)).toEqual([]);
	expect(moved(list(1, 2), 7, 1)).toEqual([]);
});
