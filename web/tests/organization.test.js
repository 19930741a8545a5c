// Pages of settings for what an organization has: models and keys.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve } from './server.js';

const KEY = 'sk-of-the-organization-0001';

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;
/** A provider of models that knows one key. @type {import('node:http').Server} */
let provider;
let models = '';

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function open(options) {
	const context = await chromium.newContext({ viewport: { width: 1200, height: 800 }, ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(15_000);
	return page;
}

/** A page of someone who joins in this role, on a phone. @param {string} role @param {string} name */
async function joined(role, name) {
	const { url } = await server.call('POST', `${server.org}/invitations`, { role });
	const page = await open({ viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true, colorScheme: 'dark' });
	await page.goto(url);
	await page.getByLabel('Your name').fill(name);
	await page.getByRole('button', { name: 'Join' }).click();
	await page.getByRole('link', { name: 'Go on' }).click();
	await page.getByRole('link', { name: 'Settings' }).click();
	return page;
}

/** No wider than the phone, and to be read by everyone. @param {import('playwright-core').Page} page @param {string} what */
async function fits(page, what) {
	assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360, what);
	await accessible(page, what);
}

before(async () => {
	provider = createServer((request, response) => {
		request.resume().on('end', () => {
			if (request.headers.authorization !== `Bearer ${KEY}`) {
				response.writeHead(401, { 'content-type': 'application/json' }).end('{"error": {"message": "no such key"}}');
				return;
			}
			const chunk = JSON.stringify({ choices: [{ delta: { content: 'yes' }, finish_reason: 'stop' }] });
			response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`data: ${chunk}\n\ndata: [DONE]\n\n`);
		});
	});
	await new Promise((resolve) => provider.listen(0, '127.0.0.1', () => resolve(undefined)));
	models = `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (provider.address()).port}/v1`;
	server = await serve([], { env: { CODEGEN_ALLOW_PRIVATE_ADDRESSES: 'on' } });
	chromium = await browser();
});
after(async () => {
	await chromium?.close();
	provider?.close();
	await server?.stop();
});

describe('settings of an organization', () => {
	it('add an account with a provider of models after its key was tried, never show the key, and choose the usual model', async () => {
		const page = await open();
		await logIn(page, server);
		await page.getByRole('link', { name: 'Settings' }).click();
		await page.getByRole('navigation', { name: 'Settings' }).getByRole('link', { name: 'Models' }).click();
		const accounts = page.getByRole('list', { name: /^Accounts of/ });
		await accounts.getByText('None yet.').waitFor();
		await page.getByText('None is known by name').waitFor();
		await page.getByRole('button', { name: 'Add' }).click();
		await page.getByLabel('Provider').selectOption('Another service');
		await page.getByLabel('Name', { exact: true }).fill('acme');
		await page.getByLabel('Address').fill(models);
		await page.getByLabel('Key', { exact: true }).fill('sk-of-somebody-else-0002');
		await page.getByLabel('Models', { exact: true }).fill('big, small');
		await accessible(page, 'a new account');
		await page.getByRole('button', { name: 'Add account' }).click();
		// The provider refused the key: nothing is kept, and what was typed is.
		await page.getByRole('alert').filter({ hasText: 'refuses the key' }).waitFor();
		await accounts.getByText('None yet.').waitFor();
		assert.doesNotMatch(await page.getByRole('alert').filter({ hasText: 'refuses' }).innerText(), /0002/);
		await page.getByLabel('Key', { exact: true }).fill(KEY);
		await page.getByRole('button', { name: 'Add account' }).click();
		await accounts.getByText(/key …0001 · answered just now · big, small/).waitFor();
		assert.doesNotMatch(await page.content(), new RegExp(KEY));
		await page.getByRole('list', { name: 'Models of acme' }).getByText('acme/small').waitFor();
		await page.getByRole('button', { name: 'Test acme' }).click();
		await page.getByText(/acme\/big answered in/).waitFor();

		const usual = page.getByLabel('Model of runs that name none');
		assert.equal(await usual.inputValue(), '');
		await usual.fill('acme/none');
		await page.getByRole('button', { name: 'Save' }).click();
		await page.getByRole('alert').filter({ hasText: 'acme/none' }).waitFor();
		await usual.fill('acme/small');
		await page.getByRole('button', { name: 'Save' }).click();
		await page.getByText('Saved.').waitFor();
		assert.equal((await server.call('GET', `${server.org}/models`)).default_model, 'acme/small');
		await accessible(page, 'models');

		// Fewer models, with the key that is there; another address only with the key again.
		await page.getByRole('button', { name: 'Edit acme' }).click();
		await page.getByLabel('Models', { exact: true }).fill('small');
		await page.getByLabel('Address').fill(`${models}/elsewhere`);
		await page.getByText('Another address needs the key again.').waitFor();
		assert.equal(await page.getByLabel('Key', { exact: true }).evaluate((node) => /** @type {HTMLInputElement} */ (node).checkValidity()), false);
		await page.getByLabel('Address').fill(models);
		await page.getByRole('button', { name: 'Save' }).last().click();
		await accounts.getByText(/just now · small/).waitFor();

		const member = await joined('MEMBER', 'Bea');
		await member.getByRole('navigation', { name: 'Settings' }).getByRole('link', { name: 'Models' }).click();
		await member.getByRole('list', { name: 'Models of acme' }).getByText('acme/small').waitFor();
		assert.equal(await member.getByRole('button', { name: /Add|Edit|Test|Save/ }).count(), 0);
		assert.doesNotMatch(await member.content(), /0001/);
		await fits(member, 'models of a member on a phone');

		await page.setViewportSize({ width: 360, height: 700 });
		await page.getByRole('button', { name: 'Edit acme' }).click();
		await fits(page, 'models on a phone');
		await page.getByRole('button', { name: 'Remove acme' }).click();
		await page.getByRole('button', { name: 'Yes, remove with its key' }).click();
		await accounts.getByText('None yet.').waitFor();
		assert.equal((await server.call('GET', `${server.org}/model-providers`)).total, 0);
	});
});
