// How long the first screen of a run of 10,000 entries takes: the server's answer, and the browser until its first rows.
// node bench/first_screen.js [ENTRIES] [ROUNDS], with CODEGEN_BINARY for another build than target/debug/codegen.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { browser, logIn, serve } from '../web/tests/server.js';

const entries = Number(process.argv[2] ?? 10_000);
const rounds = Number(process.argv[3] ?? 15);
const root = new URL('..', import.meta.url).pathname;
const median = (/** @type {number[]} */ all) => all.sort((a, b) => a - b)[Math.floor(all.length / 2)] ?? NaN;
const line = (/** @type {string} */ what, /** @type {number[]} */ all) =>
	console.log(`${what.padEnd(58)} ${median(all).toFixed(1).padStart(7)} ms   (worst ${Math.max(...all).toFixed(1)})`);

const server = await serve([{ text: '', calls: [{ name: 'finish', input: { summary: 'Done', success: true } }] }], { env: { CODEGEN_RATE_LIMITS: 'off' } });
const chromium = await browser();
try {
	const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt: 'Go on for long.' });
	await fetch(`${server.url}${server.org}/agent/run/${id}/events`, { headers: { authorization: `Bearer ${server.token}` } }).then((r) => r.text());
	execFileSync('python3', [join(root, 'web/tests/fill.py'), join(server.dir, 'data/codegen.db'), String(id), String(entries)]);

	/** @type {Record<string, number[]>} */
	const served = { [`/v1/runs/${id}`]: [], [`${server.org}/agent/run/${id}/entries?before=5001&limit=100`]: [], [`${server.org}/agent/run/${id}/matches?text=haystack`]: [] };
	let size = 0;
	for (let round = 0; round <= rounds; round++) {
		for (const [path, times] of Object.entries(served)) {
			const began = performance.now();
			const response = await fetch(server.url + path, { headers: { authorization: `Bearer ${server.token}` } });
			const text = await response.text();
			if (!response.ok) throw new Error(text);
			if (path.startsWith('/v1/runs')) size = text.length;
			if (round) times.push(performance.now() - began);
		}
	}

	const page = await chromium.newPage({ viewport: { width: 1280, height: 800 } });
	await logIn(page, server);
	/** @type {number[]} */
	const [rows, moved] = [[], []];
	for (let round = 0; round <= rounds; round++) {
		// A page anew, with the files in the browser's cache as on any second visit.
		await page.goto(`${server.url}/runs/${id}`, { waitUntil: 'commit' });
		const shown = await page.evaluate(
			() =>
				new Promise((resolve) => {
					const look = () => {
						if (!document.querySelector('article[data-seq] time')) return requestAnimationFrame(look);
						// After the frame with the rows is on its way to the screen.
						requestAnimationFrame(() => setTimeout(() => resolve(performance.now())));
					};
					look();
				})
		);
		if (round) rows.push(/** @type {number} */ (shown));
		// From the list, where the script is already there.
		await page.goto(server.url + '/');
		await page.locator('.run').first().waitFor();
		const clicked = await page.evaluate(
			() =>
				new Promise((resolve) => {
					const began = performance.now();
					/** @type {HTMLElement} */ (document.querySelector('.run')).click();
					const look = () => {
						if (!document.querySelector('article[data-seq] time')) return requestAnimationFrame(look);
						requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
					};
					look();
				})
		);
		if (round) moved.push(/** @type {number} */ (clicked));
	}
	console.log(`A run of ${entries.toLocaleString('en')} entries, ${rounds} rounds, medians; the first screen's answer is ${Math.round(size / 1024)} kB.`);
	line('server: first screen', served[`/v1/runs/${id}`] ?? []);
	line('server: 100 entries from the middle', Object.values(served)[1] ?? []);
	line('server: find a word in all entries', Object.values(served)[2] ?? []);
	line('browser: from navigation to first rows on the screen', rows);
	line('browser: from a click in the list to first rows', moved);
} finally {
	await chromium.close();
	await server.stop();
}
