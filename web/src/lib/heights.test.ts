import { describe, expect, it } from 'vitest';
import { Heights } from './heights';

describe('a list of rows', () => {
	it('knows the place of each row, measured or guessed', () => {
		const heights = new Heights();
		heights.grow(10_000);
		expect(heights.offset(10_000)).toBe(480_000);
		heights.set(0, 100);
		heights.set(2, 0);
		expect([0, 1, 2, 3, 4].map((row) => heights.offset(row))).toEqual([0, 100, 148, 148, 196]);
		expect([0, 99, 100, 147, 148].map((place) => heights.at(place))).toEqual([0, 0, 1, 1, 3]);
		expect(heights.at(1e9)).toBe(9_999);
	});

	it('guesses from what it has measured', () => {
		const heights = new Heights();
		heights.grow(1000);
		for (let row = 0; row < 100; row++) heights.set(row, 20);
		heights.learn();
		expect(heights.offset(1000)).toBe(20_000);
	});

	it('grows without forgetting', () => {
		const heights = new Heights();
		heights.grow(100);
		heights.set(5, 7);
		heights.grow(100_000);
		expect(heights.offset(6) - heights.offset(5)).toBe(7);
	});

	it('of a hundred thousand answers in no time', () => {
		const heights = new Heights();
		heights.grow(100_000);
		const began = performance.now();
		for (let i = 0; i < 100; i++) {
			heights.set(i, i);
			heights.at(heights.offset(100_000) / 2);
		}
		expect(performance.now() - began).toBeLessThan(500);
	});
});
