// The app as a person uses it, in a real browser against a real server.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve, shiftOf } from './server.js';

const SCRIPT = [
	{
		text: 'I look around **first**.',
		calls: [
			{ name: 'shell', input: { command: 'seq 1 500 | sed "s/^/number /"' } },
			{ name: 'edit', input: { path: 'shop.py', old: 'PRICE = 10\n', new: 'PRICE = 12\nTAX = 2\n' } }
		]
	},
	{ text: 'Now something slow.', calls: [{ name: 'shell', input: { command: 'echo it has begun; sleep 600' } }] },
	{ text: 'You are right.', calls: [{ name: 'write', input: { path: 'notes.md', content: '# Notes\nDone as told.\n' } }] },
	{ text: '', calls: [{ name: 'finish', input: { summary: 'Raise the price\n\nAnd write it down.', success: true } }] }
];

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;
/** @type {string[]} What pages complained of. */
const complaints = [];

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function open(options) {
	const context = await chromium.newContext({ viewport: { width: 1200, height: 800 }, ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(15_000);
	page.on('pageerror', (error) => complaints.push(String(error)));
	page.on('console', (message) => {
		// What is refused on purpose is told in the console too.
		if (message.type() === 'error' && !/status of 40[134]/.test(message.text())) complaints.push(message.text());
	});
	return page;
}

/** Bytes that a first visit of a page takes over the line. @param {import('playwright-core').Page} page @param {string} path */
async function weigh(page, path) {
	let sum = 0;
	/** @type {Promise<void>[]} */
	const waiting = [];
	page.on('response', (response) => {
		if (new URL(response.url()).pathname.startsWith('/v1/')) return;
		waiting.push(response.request().sizes().then((sizes) => void (sum += sizes.responseBodySize)));
	});
	await page.goto(server.url + path);
	await page.waitForLoadState('load');
	await Promise.all(waiting);
	return sum;
}

before(async () => {
	server = await serve(SCRIPT, { files: { 'shop.py': 'PRICE = 10\n' } });
	chromium = await browser();
	await server.call('POST', `${server.org}/repos`, { url: server.origin });
});
after(async () => {
	await chromium?.close();
	await server?.stop();
});

describe('the web app', () => {
	it('takes a person from log-in over a stopped run and a follow-up to the diff', async () => {
		const page = await open({ colorScheme: 'light' });
		await page.goto(server.url + '/repos');
		await page.getByLabel('API token').waitFor();
		assert.equal(new URL(page.url()).searchParams.get('next'), '/repos');
		await accessible(page, 'log-in');
		await page.getByLabel('API token').fill('cgn_wrong');
		await page.keyboard.press('Enter');
		await page.getByText('Missing or invalid API token.').waitFor();
		await page.getByLabel('API token').fill(server.token);
		await page.keyboard.press('Enter');
		// Back to where the person wanted to be.
		await page.getByRole('heading', { name: 'Repositories' }).waitFor();
		const cookies = await page.context().cookies();
		assert.deepEqual(cookies.map(({ httpOnly, sameSite }) => ({ httpOnly, sameSite })), [{ httpOnly: true, sameSite: 'Strict' }]);
		await accessible(page, 'repositories');

		// Setup commands are kept.
		await page.getByRole('button', { name: 'acme/shop' }).click();
		await page.getByLabel('Setup commands').fill('export GREETING=hello');
		await page.getByRole('button', { name: 'Save' }).click();
		await page.getByText('Saved.').waitFor();

		// A new run, by keyboard.
		await page.getByRole('heading', { name: 'Repositories' }).click();
		await page.keyboard.press('c');
		await page.getByLabel('Task').fill('Raise the price.\nTax too.');
		await page.locator('datalist#branches option[value=main]').waitFor({ state: 'attached' });
		await page.getByLabel('Start from branch').fill('main');
		await accessible(page, 'new run');
		const shift = await shiftOf(page);
		await page.keyboard.press('Tab');
		await page.getByRole('button', { name: 'Start run' }).click();

		// It is watched: the prompt, stages, a command with its folded output, an edit as a difference, live output.
		const feed = page.getByRole('feed');
		await page.waitForURL(/\/runs\/\d+$/);
		await feed.getByText('it has begun').last().waitFor();
		await feed.getByText('running', { exact: true }).waitFor();
		await feed.getByText('Tax too.').waitFor();
		await feed.getByText('number 500').waitFor();
		assert.equal(await feed.getByText('number 100', { exact: true }).count(), 0);
		const edit = feed.getByRole('group', { name: 'Changed lines' });
		assert.match(await edit.innerText(), /-\s*PRICE = 10\s*\+\s*PRICE = 12\s*\+\s*TAX = 2/);
		assert.equal(await page.locator('aside .step').first().innerText().then((text) => text.split('\n')[0]), 'fetch');
		assert.ok((await shift()) < 0.1, 'the page shifts while it streams');
		await accessible(page, 'a live run');
		await feed.getByRole('button', { name: /earlier lines|before this|whole output/ }).click();
		await feed.getByText(/number 100\n/).waitFor();

		// What it changed so far.
		await page.getByRole('heading', { level: 1 }).click();
		await page.keyboard.press('d');
		await page.getByRole('region', { name: 'Changes' }).getByRole('region', { name: 'shop.py' }).getByText('TAX = 2').waitFor();
		await page.keyboard.press('t');

		// Stopped, then told to go on.
		await page.getByRole('button', { name: 'Stop' }).click();
		await page.locator('.bar').getByText('Stopped').waitFor();
		await page.getByLabel('Follow-up').fill('Only take notes.');
		await page.keyboard.press('Enter');
		await page.locator('.bar').getByText('Complete').waitFor();
		await feed.getByText('Only take notes.').waitFor();
		await feed.getByText('The agent has read your message.').waitFor();
		await feed.getByText('And write it down.').waitFor();

		// The diff by file, the branch and the pull request.
		await page.getByRole('heading', { level: 1 }).click();
		await page.keyboard.press('d');
		const changes = page.getByRole('region', { name: 'Changes' });
		assert.match(await changes.getByRole('region', { name: 'shop.py' }).innerText(), /TAX = 2/);
		assert.match(await changes.getByRole('region', { name: 'notes.md' }).innerText(), /Done as told\./);
		await accessible(page, 'changes');
		await page.locator('aside').getByRole('link', { name: /Pull request 1/ }).click();
		await page.getByRole('heading', { name: /Raise the price/ }).waitFor();
		await page.getByRole('region', { name: 'notes.md' }).waitFor();
		await accessible(page, 'a pull request');

		// Retry is a new run of the same task.
		await page.getByRole('link', { name: 'run 1' }).click();
		await page.getByRole('button', { name: 'Retry' }).click();
		await page.waitForURL(/\/runs\/2$/);
		await feed.getByText('it has begun').last().waitFor();
		await page.getByRole('button', { name: 'Stop' }).click();
		await page.locator('.bar').getByText('Stopped').waitFor();

		// Someone else goes on with it; who comes back to the page sees that.
		await server.call('POST', `${server.org}/agent/run/resume`, { agent_run_id: 2, prompt: 'Another one goes on.' });
		await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
		await feed.getByText('Another one goes on.').waitFor();
	});

	it('lists runs live, by filter and by key', async () => {
		const page = await open({ colorScheme: 'dark' });
		await logIn(page, server);
		await page.getByRole('link', { name: /Complete run 1/ }).waitFor();
		await accessible(page, 'the list');
		const run = await server.call('POST', `${server.org}/agent/run`, { prompt: 'Appear by yourself.' });
		await page.getByRole('link', { name: /Appear by yourself/ }).waitFor();
		await server.call('POST', `${server.org}/agent/run/stop`, { agent_run_id: run.id });
		await page.getByRole('link', { name: new RegExp(`^(Stopped|Not done|Complete) run ${run.id} `) }).waitFor();

		await page.getByLabel('Status').selectOption('Complete');
		await page.waitForURL(/status=COMPLETE/);
		await page.getByRole('link', { name: /Appear by yourself/ }).waitFor({ state: 'detached' });
		await page.getByLabel('Repository').selectOption('acme/shop');
		await page.waitForURL(/repo_id=1/);
		await page.getByRole('link', { name: /Complete run 1/ }).waitFor();

		await page.getByRole('link', { name: 'Runs', exact: true }).click();
		await page.getByRole('link', { name: /Appear by yourself/ }).waitFor();
		await page.keyboard.press('?');
		await page.getByRole('dialog', { name: 'Keys' }).waitFor();
		await accessible(page, 'the keys');
		await page.keyboard.press('Escape');
		await page.getByRole('dialog', { name: 'Keys' }).waitFor({ state: 'hidden' });
		await page.keyboard.press('/');
		await page.keyboard.type('nothing is like this');
		await page.getByText('No run fits.').waitFor();
		await page.keyboard.press('Control+a');
		await page.keyboard.type('raise');
		await page.keyboard.press('Escape');
		await page.keyboard.press('j');
		await page.keyboard.press('j');
		await page.keyboard.press('k');
		await page.keyboard.press('Enter');
		await page.waitForURL(/\/runs\/\d+$/);
	});

	it('shows a run of 10,000 entries at once, from its end, and any part of it', async () => {
		const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt: 'Go on for long.' });
		const page = await open();
		await logIn(page, server);
		await page.goto(`${server.url}/runs/${id}`);
		await page.getByText('it has begun').last().waitFor();
		await page.getByRole('button', { name: 'Stop' }).click();
		await page.locator('.bar').getByText('Stopped').waitFor();
		execFileSync('python3', [join(import.meta.dirname, 'fill.py'), join(server.dir, 'data/codegen.db'), String(id), '10000']);

		/** @type {string[]} */
		const asked = [];
		page.on('request', (request) => asked.push(new URL(request.url()).pathname));
		await page.goto(`${server.url}/runs/${id}`);
		await page.getByText('The work goes on.').last().waitFor();
		assert.deepEqual(asked.filter((path) => path.startsWith('/v1/')).sort(), [`/v1/runs/${id}`, '/v1/session']);
		const trace = page.getByRole('region', { name: 'Trace' });
		const rows = () => trace.getByRole('article').count();
		assert.ok((await rows()) < 120, 'too many rows are drawn');
		assert.ok(await trace.evaluate((node) => node.scrollHeight - node.scrollTop - node.clientHeight < 5), 'not at the end');

		// What is looked at stays where it is while what is above becomes known.
		await trace.evaluate((node) => (node.scrollTop -= 12_000));
		await trace.getByRole('article', { name: /loading/ }).first().waitFor({ state: 'detached' });
		assert.ok((await rows()) < 120);
		await page.getByRole('heading', { level: 1 }).click();
		await page.keyboard.press('g');
		await trace.getByText('Go on for long.').waitFor();
		await page.keyboard.press('G');
		await page.getByText('The work goes on.').last().waitFor();
		await page.keyboard.press('/');
		await page.getByRole('searchbox', { name: 'Find in the trace' }).fill('step 1234:');
		await page.getByRole('status').filter({ hasText: /^1$/ }).waitFor();
		await page.keyboard.press('Enter');
		await trace.getByText('Step 1234:').waitFor();
		await accessible(page, 'a long run');

		// Dragged through from end to end, no frame takes long.
		const longest = await trace.evaluate(async (node) => {
			let [longest, last] = [0, performance.now()];
			for (let part = 0; part <= 60; part++) {
				node.scrollTop = (node.scrollHeight * part) / 60;
				await new Promise(requestAnimationFrame);
				longest = Math.max(longest, performance.now() - last);
				last = performance.now();
			}
			return longest;
		});
		assert.ok(longest < 400, `a frame took ${longest} ms`);
	});

	it('is readable on a phone, and needs no sideways scrolling', async () => {
		const page = await open({ viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true, colorScheme: 'dark' });
		await logIn(page, server);
		for (const path of ['/', '/runs/1', '/new', '/repos', '/pulls/1']) {
			await page.goto(server.url + path);
			await page.getByRole('main').getByRole('heading', { level: 1 }).first().waitFor({ state: 'attached' });
			assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, path);
			await accessible(page, `${path} on a phone`);
		}
		await page.goto(server.url + '/runs/1');
		await page.getByRole('tab', { name: 'Details' }).click();
		await page.getByRole('tabpanel').getByText('Tokens read').waitFor();
	});

	it('loads in two turns over a slow line, and is light', async () => {
		const page = await open();
		await logIn(page, server);
		const fresh = await page.context().newPage();
		assert.ok((await weigh(fresh, '/runs/1')) < 150_000, 'the first load is over 150 kB');
		const slow = await page.context().newPage();
		const line = await page.context().newCDPSession(slow);
		await line.send('Network.enable');
		await line.send('Network.setCacheDisabled', { cacheDisabled: true });
		await line.send('Network.emulateNetworkConditions', { offline: false, latency: 300, downloadThroughput: -1, uploadThroughput: -1 });
		const began = Date.now();
		await slow.goto(`${server.url}/runs/1`, { waitUntil: 'commit' });
		await slow.getByText('And write it down.').waitFor();
		// The page, then its script and its data side by side.
		assert.ok(Date.now() - began < 1800, `${Date.now() - began} ms with 300 ms of latency`);
	});

	it('logs out, and another site cannot act for the person', async () => {
		const page = await open();
		await logIn(page, server);
		const [cookie] = await page.context().cookies();
		const foreign = await fetch(`${server.url}${server.org}/agent/run`, {
			method: 'POST',
			headers: { cookie: `${cookie?.name}=${cookie?.value}`, 'content-type': 'application/json', origin: 'https://evil.example' },
			body: JSON.stringify({ prompt: 'Do harm.' })
		});
		assert.equal(foreign.status, 403);
		await page.getByRole('link', { name: 'Account' }).click();
		await page.getByRole('button', { name: 'Log out' }).click();
		await page.getByLabel('API token').waitFor();
		await page.goto(server.url + '/runs/1');
		await page.getByLabel('API token').waitFor();
		assert.equal(new URL(page.url()).searchParams.get('next'), '/runs/1');
		const gone = await fetch(`${server.url}/v1/session`, { headers: { cookie: `${cookie?.name}=${cookie?.value}` } });
		assert.equal(gone.status, 401);
	});

	it('never breaks its own policy or throws', () => assert.deepEqual(complaints, []));
});
