import { describe, expect, it } from 'vitest';
import { inline, blocks } from './markdown';
import { EventReader } from './sse';
import { ago, count, duration, head, modelName, money, plain, tail } from './text';

describe('an output', () => {
	it('is folded to its last lines, unless next to nothing would be hidden', () => {
		const lines = (n: number) => Array.from({ length: n }, (_, i) => `line ${i + 1}`).join('\n') + '\n';
		expect(tail(lines(100), 12)).toEqual({ text: lines(100).trim().split('\n').slice(88).join('\n'), hidden: 88 });
		expect(tail(lines(15), 12).hidden).toBe(0);
		expect(head(lines(100), 3)).toEqual({ text: 'line 1\nline 2\nline 3', hidden: 97 });
	});

	it('is shown as a terminal shows it', () => {
		expect(plain('\x1b[31mred\x1b[0m \x1b]8;;http://x\x07link\x1b]8;;\x07')).toBe('red link');
		expect(plain('10%\r50%\r100%\ndone\r\n')).toBe('100%\ndone\n');
	});
});

describe('values', () => {
	it('are short', () => {
		expect([0, 950, 1500, 59_900, 61_000, 3_660_000].map(duration)).toEqual(['0 ms', '950 ms', '1.5 s', '59 s', '1 m 01 s', '1 h 01 m']);
		expect([999, 1500, 45_300, 1_200_000].map(count)).toEqual(['999', '1.5k', '45k', '1.2M']);
		expect([0, 0.004, 1.236].map(money)).toEqual(['$0.00', '<$0.01', '$1.24']);
		expect(['scripted:/tmp/a/demo.json', 'openai/gpt-5'].map(modelName)).toEqual(['scripted: demo.json', 'openai/gpt-5']);
		expect(ago('2026-01-01T00:00:00Z', Date.parse('2026-01-01T03:00:00Z'))).toBe('3 h');
	});
});

describe('markdown', () => {
	it('is read into blocks', () => {
		const kinds = blocks('# Title\n\nSome *text*\nmore\n\n- a\n  - b\n- c\n\n1. x\n2. y\n\n```py\ncode `x`\n```\n> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n---').map((block) => block.kind);
		expect(kinds).toEqual(['heading', 'paragraph', 'list', 'list', 'code', 'quote', 'table', 'rule']);
	});

	it('keeps a fence that is still being written', () => {
		expect(blocks('```\nhalf')).toEqual([{ kind: 'code', text: 'half', language: '' }]);
	});

	it('makes links of web addresses only', () => {
		expect(inline('[a](https://x.y) [b](javascript:alert(1)) https://z.w/q.')).toEqual([
			{ kind: 'link', text: 'a', href: 'https://x.y' },
			{ kind: 'text', text: ' [b](javascript:alert(1)) ' },
			{ kind: 'link', text: 'https://z.w/q', href: 'https://z.w/q' },
			{ kind: 'text', text: '.' }
		]);
	});

	it('leaves names with underscores and lone stars alone', () => {
		expect(inline('a_b_c 2 * 3 * 4')).toEqual([{ kind: 'text', text: 'a_b_c 2 * 3 * 4' }]);
		expect(inline('`a*b*` **bold**').map((part) => part.kind)).toEqual(['code', 'text', 'strong']);
	});
});

describe('server-sent events', () => {
	it('come whole, however they are cut', () => {
		const text = ': hi\n\nid: 7\nevent: reply\ndata: {"a":\ndata: 1}\n\nevent: end\ndata: {}\n\nid: 8\nda';
		const whole = [
			{ id: '7', event: 'reply', data: '{"a":\n1}' },
			{ event: 'end', data: '{}' }
		];
		for (let size = 1; size < text.length; size++) {
			const reader = new EventReader();
			const found = [];
			for (let at = 0; at < text.length; at += size) found.push(...reader.take(text.slice(at, at + size)));
			expect(found).toEqual(whole);
		}
	});
});
