// Takes the screenshots of docs/screenshots from a real server: node scripts/screenshots.js
import { readFileSync, mkdirSync } from 'node:fs';
import { browser, logIn, serve } from '../tests/server.js';

const root = new URL('../..', import.meta.url);
const read = (/** @type {string} */ path) => readFileSync(new URL(path, root), 'utf8');
const place = new URL('docs/screenshots/', root).pathname;
mkdirSync(place, { recursive: true });

const demo = JSON.parse(read('demo/script.json')).replies;
const files = Object.fromEntries(['durations.py', 'test_durations.py'].map((name) => [name, read(`demo/repository/${name}`)]));
const server = await serve(demo, { files });
const open = await browser();
try {
	const repo = await server.call('POST', `${server.org}/repos`, { url: server.origin });
	const start = (/** @type {object} */ body) => server.call('POST', `${server.org}/agent/run`, body);
	const ended = async (/** @type {number} */ id) => {
		for (;;) {
			const { phase } = await server.call('GET', `${server.org}/agent/run/${id}/view`);
			if (phase === 'done') return;
			await new Promise((resolve) => setTimeout(resolve, 200));
		}
	};
	const tasks = [
		'Add a --json flag to the export command.',
		'Upgrade to Python 3.13 and fix the deprecation warnings.',
		'The test suite fails. Find out why, mend the code, and show that the tests pass.'
	];
	for (const prompt of tasks) await ended((await start({ prompt, repo_id: repo.id })).id);
	const run = await start({ prompt: 'parse("1h30m") gives 3600 instead of 5400. Find out why, mend it, and show that the tests pass.', repo_id: repo.id });
	await ended(run.id);
	await start({ prompt: 'Write a changelog from the last 20 commits.' }).then(({ id }) => ended(id));

	const light = await open.newContext({ viewport: { width: 1200, height: 740 }, colorScheme: 'light' });
	const page = await light.newPage();
	await logIn(page, server);
	await page.locator('.run').first().waitFor();
	await page.screenshot({ path: place + 'runs.png' });
	await page.goto(`${server.url}/runs/${run.id}`);
	await page.locator('article').first().waitFor();
	await page.waitForTimeout(400);
	await page.screenshot({ path: place + 'run.png' });
	const extra = process.argv[2];
	if (extra) {
		await page.getByRole('tab', { name: /Changes/ }).click();
		await page.waitForTimeout(300);
		await page.screenshot({ path: extra + '/changes.png' });
		for (const path of ['new', 'repos']) {
			await page.goto(`${server.url}/${path}`);
			await page.waitForTimeout(300);
			await page.screenshot({ path: `${extra}/${path}.png` });
		}
	}
	const phone = await open.newContext({ viewport: { width: 390, height: 740 }, colorScheme: 'dark', deviceScaleFactor: 1.5, hasTouch: true, isMobile: true });
	const small = await phone.newPage();
	await logIn(small, server);
	if (extra) await small.screenshot({ path: extra + '/phone-runs.png' });
	await small.goto(`${server.url}/runs/${run.id}`);
	await small.locator('article').first().waitFor();
	await small.waitForTimeout(400);
	await small.screenshot({ path: place + 'run-phone-dark.png' });
} finally {
	await open.close();
	await server.stop();
}
