// Takes the screenshots of docs/screenshots from a real server: node scripts/screenshots.js
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { browser, logIn, serve } from '../tests/server.js';

const root = new URL('../..', import.meta.url);
const read = (/** @type {string} */ path) => readFileSync(new URL(path, root), 'utf8');
const place = new URL('docs/screenshots/', root).pathname;
mkdirSync(place, { recursive: true });

const demo = JSON.parse(read('demo/script.json')).replies;
const files = Object.fromEntries(['durations.py', 'test_durations.py'].map((name) => [name, read(`demo/repository/${name}`)]));
files['.gitignore'] = '__pycache__/\n';
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
	const script = (/** @type {string} */ name, /** @type {object[]} */ replies) => {
		writeFileSync(join(server.dir, name), JSON.stringify({ replies }));
		return `scripted:${join(server.dir, name)}`;
	};
	const finish = (/** @type {string} */ summary, success = true) => ({ calls: [{ name: 'finish', input: { summary, success } }] });
	const write = (/** @type {string} */ path, /** @type {string} */ content) => ({ calls: [{ name: 'write', input: { path, content } }] });
	/** @type {[string, object[]][]} */
	const tasks = [
		['Write a changelog from the last 20 commits.', [write('CHANGELOG.md', '# Changelog\n'), finish('Add a changelog of the last 20 commits')]],
		['Which license do our dependencies have?', [finish('All of them are MIT or Apache-2.0')]],
		['Add a --json flag to the export command.', [write('export.py', 'import json\n'), finish('Print the export as JSON with --json')]],
		['Move the nightly job to the new database.', [finish('The new database refuses the password of the job, so nothing was moved', false)]],
		['Render 90 minutes as 1h30m, not as 90m.', [write('render.md', 'hours first\n'), finish('Render hours before minutes')]],
		['Upgrade to Python 3.13 and fix the deprecation warnings.', [write('.python-version', '3.13\n'), finish('Require Python 3.13 and drop the old imports')]]
	];
	for (const [at, [prompt, replies]] of tasks.entries()) {
		const { id } = await start({ prompt, repo_id: repo.id, model: script(`task-${at}.json`, replies) });
		await ended(id);
	}
	const run = await start({ prompt: 'parse("1h30m") gives 3600 instead of 5400. Find out why, mend it, and show that the tests pass.', repo_id: repo.id });
	await ended(run.id);
	const slow = script('slow.json', [{ text: 'I run the whole suite.', calls: [{ name: 'shell', input: { command: 'sleep 600' } }] }]);
	const watched = await start({ prompt: 'Find the test that fails once in fifty times.', repo_id: repo.id, model: slow });

	const light = await open.newContext({ viewport: { width: 1200, height: 680 }, colorScheme: 'light' });
	const page = await light.newPage();
	await logIn(page, server);
	await page.locator('.run', { hasText: 'Running' }).waitFor();
	// Off the rows, one of which it would mark.
	await page.mouse.move(0, 0);
	await page.screenshot({ path: place + 'runs.png', clip: { x: 0, y: 0, width: 1200, height: 440 } });
	await page.goto(`${server.url}/runs/${run.id}`);
	await page.locator('article').first().waitFor();
	await page.waitForTimeout(400);
	// Up to where the edit is seen.
	await page.getByRole('region', { name: 'Trace' }).evaluate((node) => (node.scrollTop -= 330));
	await page.waitForTimeout(200);
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
	await server.call('POST', `${server.org}/agent/run/stop`, { agent_run_id: watched.id });
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
