import { describe, expect, it } from 'vitest';
import { lineDiff, parsePatch } from './diff';

const shape = (lines: { kind: string; text: string }[]) => lines.map((line) => line.kind + line.text);

describe('a patch', () => {
	it('is cut into files with counts and line numbers', () => {
		const [file] = parsePatch(
			'diff --git a/src/a.py b/src/a.py\nindex 1..2 100644\n--- a/src/a.py\n+++ b/src/a.py\n@@ -3,3 +3,4 @@ def f():\n one\n-two\n+2\n+2.5\n three\n'
		);
		expect(file).toMatchObject({ path: 'src/a.py', change: 'changed', added: 2, removed: 1 });
		expect(file?.lines.map(({ kind, old, new: now }) => [kind, old, now])).toEqual([
			['@', 3, 3],
			[' ', 3, 3],
			['-', 4, undefined],
			['+', undefined, 4],
			['+', undefined, 5],
			[' ', 5, 6]
		]);
	});

	it('tells added, deleted, renamed and binary files apart', () => {
		const files = parsePatch(
			[
				'diff --git a/new.txt b/new.txt\nnew file mode 100644\nindex 0..1\n--- /dev/null\n+++ b/new.txt\n@@ -0,0 +1 @@\n+hello',
				'diff --git a/old.txt b/old.txt\ndeleted file mode 100644\n--- a/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-bye',
				'diff --git a/one two.txt b/three.txt\nsimilarity index 100%\nrename from one two.txt\nrename to three.txt',
				'diff --git a/p.png b/p.png\nBinary files a/p.png and b/p.png differ',
				'diff --git a/run.sh b/run.sh\nold mode 100644\nnew mode 100755'
			].join('\n')
		);
		expect(files.map(({ path, change, binary, from }) => [path, change, binary, from])).toEqual([
			['new.txt', 'added', false, undefined],
			['old.txt', 'deleted', false, undefined],
			['three.txt', 'renamed', false, 'one two.txt'],
			['p.png', 'changed', true, undefined],
			['run.sh', 'mode', false, undefined]
		]);
	});

	it('keeps lines that look like headers inside their hunk', () => {
		const [file, none] = parsePatch(
			'diff --git a/d b/d\n--- a/d\n+++ b/d\n@@ -1,3 +1,3 @@\n--- a/x\n+++ b/y\n diff --git a/q b/q\n+@@ -1 +1 @@\n-last\n\\ No newline at end of file\n'
		);
		expect(none).toBeUndefined();
		expect(shape(file?.lines.slice(1) ?? [])).toEqual(['--- a/x', '+++ b/y', ' diff --git a/q b/q', '+@@ -1 +1 @@', '-last']);
	});

	it('reads quoted paths', () => {
		const [file] = parsePatch('diff --git "a/\\303\\244 \\"x\\".txt" "b/\\303\\244 \\"x\\".txt"\n--- "a/\\303\\244 \\"x\\".txt"\n+++ "b/\\303\\244 \\"x\\".txt"\n@@ -1 +1 @@\n-a\n+b');
		expect(file?.path).toBe('ä "x".txt');
	});

	it('of nonsense has no files', () => expect(parsePatch('hello\n@@ -1 +1 @@\n+x')).toEqual([]));
});

describe('the difference of two texts', () => {
	it('keeps what both share as context', () => {
		expect(shape(lineDiff('a\nb\nc\n', 'a\nx\nc\n'))).toEqual([' a', '-b', '+x', ' c']);
		expect(shape(lineDiff('def f():\n    return 1', 'def f():\n    """One."""\n    return 1'))).toEqual([' def f():', '+    """One."""', '     return 1']);
	});

	it('of nothing and something is what was added', () => expect(shape(lineDiff('', 'a\nb'))).toEqual(['+a', '+b']));

	it('gives both texts back, whatever they are', () => {
		const random = (seed: number) => Array.from({ length: 30 }, (_, i) => 'abcd'[(seed * (i + 7) * 2654435761) % 4]).join('\n');
		for (let seed = 1; seed < 50; seed++) {
			const [a, b] = [random(seed), random(seed + 100)];
			const lines = lineDiff(a, b);
			expect(lines.filter((l) => l.kind !== '+').map((l) => l.text).join('\n')).toBe(a);
			expect(lines.filter((l) => l.kind !== '-').map((l) => l.text).join('\n')).toBe(b);
		}
	});

	it('of two huge texts is quick', () => {
		const huge = (word: string) => Array.from({ length: 20_000 }, (_, i) => word + i).join('\n');
		const began = performance.now();
		expect(lineDiff(huge('a'), huge('b'))).toHaveLength(40_000);
		expect(performance.now() - began).toBeLessThan(1000);
	});
});
