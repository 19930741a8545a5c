// What is away, is not there, or belongs to others.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve } from './server.js';

const SLOW = [
	{ text: 'Something slow.', calls: [{ name: 'shell', input: { command: 'echo it has begun; sleep 600' } }] },
	{ text: '', calls: [{ name: 'finish', input: { summary: 'I saw it', success: true } }] }
];
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9AAAAFUlEQVR42mNk+M9Qz0AEYBxVSF+FABJADveWkH6oAAAAAElFTkSuQmCC';

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function open(options) {
	const context = await chromium.newContext({ viewport: { width: 1200, height: 800 }, ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(20_000);
	return page;
}

before(async () => {
	server = await serve(SLOW);
	chromium = await browser();
});
after(async () => {
	await chromium?.close();
	await server?.stop();
});

describe('the web app', () => {
	it('says that the server is away, keeps what is on the page, and goes on when it is back', async () => {
		const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt: 'Watch me.' });
		const page = await open();
		await logIn(page, server);
		const list = await open({ colorScheme: 'dark' });
		await logIn(list, server);
		await list.getByRole('link', { name: /Watch me/ }).waitFor();
		await page.goto(`${server.url}/runs/${id}`);
		await page.getByText('it has begun').last().waitFor();

		await server.kill();
		await page.getByRole('status').filter({ hasText: 'Connecting again…' }).waitFor();
		await list.getByRole('status').filter({ hasText: 'Connecting again…' }).waitFor();
		await accessible(list, 'a list without its server');
		await list.getByRole('searchbox').fill('okapi');
		await list.getByRole('alert').filter({ hasText: 'The server cannot be reached.' }).waitFor();
		// A stop that did not reach it can be asked for again.
		await page.getByRole('button', { name: 'Stop' }).click();
		await page.getByRole('alert').filter({ hasText: 'The server cannot be reached.' }).waitFor();
		assert.ok(await page.getByRole('button', { name: 'Stop' }).isEnabled());
		await page.getByText('it has begun').last().waitFor();

		await server.again();
		await page.getByText('the run goes on from its last step').waitFor();
		await list.getByText('Nothing found').waitFor();
		await list.getByRole('status').filter({ hasText: 'Connecting again…' }).waitFor({ state: 'detached' });
		await page.getByRole('button', { name: 'Stop' }).click();
		await page.locator('.bar').getByText('Stopped').waitFor();
	});

	it('offers another try where a page could not be loaded', async () => {
		const page = await open();
		await logIn(page, server);
		await page.route('**/repos', (route) => (route.request().resourceType() === 'document' ? route.continue() : route.abort()));
		await page.getByRole('link', { name: 'Repositories' }).click();
		await page.getByRole('heading', { name: 'The server cannot be reached.' }).waitFor();
		await accessible(page, 'a page that could not be loaded');
		await page.unroute('**/repos');
		await page.getByRole('button', { name: 'Try again' }).click();
		await page.getByText('No repositories yet.').waitFor();
	});

	it('gives an image with a follow-up, and says which files it does not take', async () => {
		const page = await open();
		await logIn(page, server);
		await page.goto(`${server.url}/runs/1`);
		const files = page.locator('input[type=file]');
		await files.setInputFiles({ name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('no image') });
		await page.getByRole('alert').filter({ hasText: 'notes.txt is not a PNG, JPEG, GIF or WebP image.' }).waitFor();
		await files.setInputFiles({ name: 'seen.png', mimeType: 'image/png', buffer: Buffer.from(PNG, 'base64') });
		await page.getByRole('list', { name: 'Attached images' }).getByAltText('seen.png').waitFor();
		await page.getByLabel('Follow-up').fill('Look at this.');
		await accessible(page, 'a follow-up with an image');
		await page.keyboard.press('Enter');
		const message = page.getByRole('article', { name: /user message/ }).filter({ hasText: 'Look at this.' });
		await message.getByRole('img').waitFor();
		await page.getByRole('list', { name: 'Attached images' }).waitFor({ state: 'detached' });
		const { entries } = await server.call('GET', `${server.org}/agent/run/1/entries?limit=100`);
		const sent = entries.find((/** @type {any} */ entry) => entry.body.text === 'Look at this.');
		assert.equal(sent.body.images.length, 1);
	});

	it('says in words what is not there, and does not show what belongs to others', async () => {
		const organization = await server.call('POST', '/v1/organizations', { name: 'Others' });
		const { url } = await server.call('POST', `/v1/organizations/${organization.id}/invitations`, { role: 'ADMIN' });
		const page = await open({ viewport: { width: 375, height: 700 } });
		await page.goto(url);
		await page.getByLabel('Your name').fill('Cleo');
		await page.getByRole('button', { name: 'Join' }).click();
		await page.getByRole('link', { name: 'Go on' }).click();
		await page.getByText('No runs yet.').waitFor();
		for (const run of [1, 999]) {
			await page.goto(`${server.url}/runs/${run}`);
			await page.getByRole('heading', { name: 'Agent run not found.' }).waitFor();
		}
		for (const path of ['/nowhere', '/runs/abc', '/settings/nowhere']) {
			await page.goto(server.url + path);
			await page.getByRole('heading', { name: 'There is no such page.' }).waitFor();
			assert.equal(await page.getByRole('button', { name: 'Try again' }).count(), 0);
		}
		await accessible(page, 'a page that is not there');
		await page.getByRole('link', { name: 'All runs' }).click();
		await page.getByText('No runs yet.').waitFor();
	});
});
