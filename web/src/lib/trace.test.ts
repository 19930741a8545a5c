import { expect, test, vi } from 'vitest';
import type { RunScreen } from './api-types';
import { RunTrace } from './trace.svelte';

/** A run's page whose stream gives these pieces, as many frames later as it takes. */
async function watched(pieces: string[]): Promise<RunTrace> {
	const frames: FrameRequestCallback[] = [];
	vi.stubGlobal('document', { visibilityState: 'visible', addEventListener() {}, removeEventListener() {} });
	vi.stubGlobal('window', {});
	vi.stubGlobal('requestAnimationFrame', (frame: FrameRequestCallback) => frames.push(frame));
	vi.stubGlobal('cancelAnimationFrame', () => {});
	const body = new ReadableStream({
		start(stream) {
			for (const piece of pieces) stream.enqueue(new TextEncoder().encode(piece));
		}
	});
	vi.stubGlobal('fetch', async () => new Response(body));
	const run = { id: 1, organization_id: 1, phase: 'running', log_seq: 0, steps: 0, tokens_in: 0, tokens_out: 0, cost: 0 };
	const trace = new RunTrace({ run, stages: [], entries: [] } as unknown as RunScreen);
	trace.follow();
	const last = pieces.join('').match(/id: \d+/g)?.length ?? 0;
	await vi.waitFor(() => expect(trace.total).toBe(last));
	for (const frame of frames) frame(0);
	trace.leave();
	return trace;
}

const text = (words: string) => `event: text\ndata: ${JSON.stringify({ text: words })}\n\n`;
const output = (call_id: string, words: string) => `event: output\ndata: ${JSON.stringify({ call_id, text: words })}\n\n`;
const entry = (seq: number, kind: string, body: object) => `id: ${seq}\nevent: ${kind}\ndata: ${JSON.stringify(body)}\n\n`;

test('words that come in one piece with their reply are not shown after it', async () => {
	const trace = await watched([text('I look') + entry(1, 'reply', { text: 'I look' })]);
	expect([trace.liveText, trace.entry(1)?.body.text]).toEqual(['', 'I look']);
});

test('words after a reply are those of the next one', async () => {
	const trace = await watched([text('I look') + entry(1, 'reply', { text: 'I look' }) + text('and find')]);
	expect(trace.liveText).toBe('and find');
});

test('output that comes in one piece with its end is not kept beside it', async () => {
	const trace = await watched([entry(1, 'call_started', { call_id: 'a' }) + output('a', 'x') + entry(2, 'call_finished', { call_id: 'a' })]);
	expect(trace.liveOutput).toEqual({});
});
