// Words that are looked for from the list of runs.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve, shiftOf } from './server.js';

const SCRIPT = [
	{ text: 'I look.', calls: [{ name: 'shell', input: { command: 'echo the quick zebra; seq 1 60' } }] },
	{ text: '', calls: [{ name: 'finish', input: { summary: 'Count the animals', success: true, output: { animals: 3 } } }] }
];

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function open(options) {
	const context = await chromium.newContext({ viewport: { width: 1200, height: 800 }, ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(15_000);
	return page;
}

before(async () => {
	server = await serve(SCRIPT);
	chromium = await browser();
	for (const prompt of ['Count what is in the zoo.', 'Write a letter.']) {
		const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt });
		await server.ended(id);
	}
	await server.found('zebra', 2);
});
after(async () => {
	await chromium?.close();
	await server?.stop();
});

describe('the search of runs', () => {
	it('finds words of the list at once and those of logs after them, and leads to the entry', async () => {
		const page = await open();
		await logIn(page, server);
		await page.getByRole('link', { name: /Complete run 2/ }).waitFor();
		const shift = await shiftOf(page);
		await page.keyboard.press('/');
		await page.keyboard.type('letter');
		await page.getByText('Nothing further').waitFor();
		assert.deepEqual(await page.locator('mark').allInnerTexts(), ['letter']);
		await page.keyboard.press('Control+a');
		await page.keyboard.type('zebra');
		const logs = page.getByRole('list', { name: 'In results and logs' });
		await logs.getByRole('link', { name: /run 1/ }).waitFor();
		assert.deepEqual([...new Set(await logs.locator('mark').allInnerTexts())], ['zebra']);
		await page.getByRole('status').filter({ hasText: '2 runs' }).waitFor();
		assert.ok((await shift()) < 0.05, 'the page shifts while one searches');
		await accessible(page, 'what a search found');

		// By keys alone: into the results, to the second of them, open, and back to the same.
		await page.keyboard.press('Enter');
		await page.keyboard.press('j');
		await page.keyboard.press('Enter');
		await page.waitForURL(/\/runs\/1#\d+$/);
		const entry = page.getByRole('article').and(page.locator('.selected'));
		await entry.getByText('the quick zebra').first().waitFor();
		await page.goBack();
		await logs.getByRole('link', { name: /run 1/ }).waitFor();
		assert.equal(await page.getByRole('searchbox').inputValue(), 'zebra');
		await page.keyboard.press('Escape');
		await page.getByRole('link', { name: /Write a letter/ }).waitFor();
		await logs.waitFor({ state: 'detached' });
		assert.equal(new URL(page.url()).search, '');
	});

	it('says that it searches, that nothing was found, and what did not work', async () => {
		const page = await open({ viewport: { width: 375, height: 700 }, isMobile: true, hasTouch: true, colorScheme: 'dark' });
		await logIn(page, server);
		let away = true;
		await page.route('**/agent/runs/search?*', (route) => (away ? route.abort() : route.continue()));
		await page.getByRole('searchbox').fill('zebra');
		await page.getByRole('alert').filter({ hasText: 'The server cannot be reached.' }).waitFor();
		await accessible(page, 'a search that failed');
		away = false;
		await page.getByRole('button', { name: 'Try again' }).click();
		await page.getByRole('link', { name: /Count what is in the zoo.*zebra/ }).waitFor();
		await accessible(page, 'what a search found, on a phone');
		assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 375);

		/** @type {() => void} */
		let go = () => undefined;
		const waiting = new Promise((resolve) => (go = () => resolve(undefined)));
		await page.unroute('**/agent/runs/search?*');
		await page.route('**/agent/runs/search?*', (route) => waiting.then(() => route.continue()));
		await page.getByRole('searchbox').fill('okapi');
		await page.getByText('Searching…').waitFor();
		go();
		await page.getByText('Nothing found').waitFor();
		await page.getByText('No run fits.').waitFor();
		await page.getByRole('button', { name: 'Show all' }).click();
		await page.getByRole('link', { name: /Write a letter/ }).waitFor();
	});

	it('is not needed for a structured result, which the page of its run shows', async () => {
		const output_schema = { type: 'object', properties: { animals: { type: 'integer' } }, required: ['animals'] };
		const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt: 'How many animals?', output_schema });
		await server.ended(id);
		const page = await open();
		await logIn(page, server);
		await page.goto(`${server.url}/runs/${id}`);
		await page.getByLabel('Output', { exact: true }).getByText('"animals": 3').waitFor();
		await accessible(page, 'a run with a structured result');
	});

	it('keeps to the filters', async () => {
		const page = await open();
		await logIn(page, server);
		await page.getByLabel('Status').selectOption('Failed');
		await page.waitForURL(/status=FAILED/);
		await page.getByRole('searchbox').fill('zebra');
		await page.getByText('Nothing found').waitFor();
		await page.getByLabel('Status').selectOption('Any status');
		await page.getByRole('link', { name: /run 1/ }).waitFor();
		assert.equal(new URL(page.url()).search, '?text=zebra');
	});
});
