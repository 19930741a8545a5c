// Pages of settings: rules, webhooks, tokens, the audit log, and logging out.
import assert from 'node:assert/strict';
import { cpSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve } from './server.js';

const SLOW = [{ text: 'Something slow.', calls: [{ name: 'shell', input: { command: 'echo it has begun; sleep 600' } }] }];

/** @type {import('./server.js').Server} */
let server;
/** @type {import('playwright-core').Browser} */
let chromium;
/** @type {import('node:http').Server} */
let receiver;
/** What the receiver was sent. @type {{ headers: import('node:http').IncomingHttpHeaders, event: any }[]} */
const received = [];
let answer = 204;
let address = '';

/** @param {import('playwright-core').BrowserContextOptions} [options] */
async function open(options) {
	const context = await chromium.newContext({ viewport: { width: 1200, height: 800 }, ...options });
	const page = await context.newPage();
	page.setDefaultTimeout(15_000);
	return page;
}

before(async () => {
	receiver = createServer((request, response) => {
		let body = '';
		request.on('data', (chunk) => (body += chunk));
		request.on('end', () => {
			received.push({ headers: request.headers, event: JSON.parse(body) });
			response.writeHead(answer).end(answer === 204 ? undefined : 'not today');
		});
	});
	await new Promise((resolve) => receiver.listen(0, '127.0.0.1', () => resolve(undefined)));
	address = `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (receiver.address()).port}/hooks`;
	server = await serve(SLOW, { env: { CODEGEN_ALLOW_PRIVATE_ADDRESSES: 'on' } });
	chromium = await browser();
	await server.call('POST', `${server.org}/repos`, { url: server.origin });
});
after(async () => {
	await chromium?.close();
	receiver?.close();
	await server?.stop();
});

describe('settings', () => {
	it('keep rules of the organization, a repository and the person, in order, on or off', async () => {
		const page = await open({ colorScheme: 'dark' });
		await logIn(page, server);
		await page.getByRole('link', { name: 'Settings' }).click();
		await page.getByRole('navigation', { name: 'Settings' }).getByRole('link', { name: 'Rules' }).click();
		const ours = page.getByRole('list', { name: 'Rules of the organization' });
		const add = page.getByLabel('A rule to add to Rules of the organization');
		await ours.getByText('None yet.').waitFor();
		for (const rule of ['Be brief.', 'Test what you change.']) {
			await add.fill(rule);
			await page.keyboard.press('Control+Enter');
			await ours.getByText(rule).waitFor();
		}
		const texts = async () => (await ours.locator('.text').allInnerTexts()).map((text) => text.trim());
		await page.getByRole('button', { name: 'Up: Test what you change.' }).click();
		// Where the button that was pressed does nothing any more, the one beside it has the focus.
		await page.locator(':focus').and(page.getByRole('button', { name: 'Down: Test what you change.' })).waitFor();
		assert.deepEqual(await texts(), ['Test what you change.', 'Be brief.']);

		await page.getByRole('button', { name: 'Edit: Be brief.' }).click();
		await page.getByLabel('Text of the rule').fill('Be brief,\nbut whole.');
		await page.getByRole('button', { name: 'Save' }).click();
		await ours.getByText('but whole.').waitFor();
		await page.getByRole('checkbox', { name: 'Follow: Test what you change.' }).uncheck();
		await page.getByLabel('A rule to add to Your rules').fill('Answer in German.');
		await page.getByLabel('A rule to add to Your rules').press('Control+Enter');
		await page.getByRole('list', { name: 'Your rules' }).getByText('Answer in German.').waitFor();
		await page.getByLabel('A rule to add to Rules of acme/shop').fill('Prices are in cents.');
		await page.getByLabel('A rule to add to Rules of acme/shop').press('Control+Enter');
		await page.getByRole('list', { name: 'Rules of acme/shop' }).getByText('Prices are in cents.').waitFor();
		await accessible(page, 'rules');

		const { organization_rules, user_custom_prompt } = await server.call('GET', `${server.org}/cli/rules`);
		assert.match(organization_rules, /Be brief,\nbut whole\./);
		assert.doesNotMatch(organization_rules, /Test what you change/);
		assert.match(user_custom_prompt, /German/);

		await page.getByRole('button', { name: 'Remove Be brief,' }).click();
		await page.getByRole('button', { name: 'Yes, remove' }).click();
		await ours.getByText('but whole.').waitFor({ state: 'detached' });
		// What is too much is refused in words, and stays in the field.
		for (const letter of 'abc') await server.call('POST', `${server.org}/rules`, { text: letter.repeat(10_000) });
		await add.fill('One more.');
		await page.getByRole('button', { name: 'Add' }).first().click();
		await page.getByRole('alert').filter({ hasText: '30000 are taken' }).waitFor();
		assert.equal(await add.inputValue(), 'One more.');
	});

	it('make a webhook, show its secret once, ping it, send again what failed, change and remove it', async () => {
		const page = await open();
		await logIn(page, server);
		await page.goto(server.url + '/webhooks');
		await page.getByText('None yet.').waitFor();
		await page.getByRole('button', { name: 'Add' }).click();
		await page.getByLabel('Address').fill(address);
		await page.getByLabel('Note').fill('Into the chat');
		await page.getByLabel('Only these').check();
		await page.getByRole('checkbox', { name: 'run.failed' }).check();
		await accessible(page, 'a new webhook');
		await page.getByRole('button', { name: 'Add webhook' }).click();
		assert.match(await page.getByRole('status').locator('code').innerText(), /^whsec_/);
		await page.getByRole('link', { name: address }).waitFor();
		await accessible(page, 'webhooks');

		await page.getByRole('link', { name: address }).click();
		await page.getByText('Nothing was sent yet.').waitFor();
		await page.getByRole('button', { name: 'Ping', exact: true }).click();
		const deliveries = page.getByRole('list', { name: 'Deliveries' });
		await deliveries.getByText('Delivered').waitFor();
		assert.equal(received[0]?.event.type, 'ping');

		answer = 500;
		await page.getByRole('button', { name: 'Ping', exact: true }).click();
		await page.getByText('The last try failed').waitFor();
		await deliveries.getByRole('button', { name: /Waiting ping/ }).click();
		await page.getByLabel('Answer', { exact: true }).getByText('not today').waitFor();
		await page.getByLabel('Request', { exact: true }).getByText('"type": "ping"').waitFor();
		await accessible(page, 'deliveries');
		answer = 204;
		await deliveries.getByRole('button', { name: 'Send again: ping 2' }).click();
		await deliveries.getByText('Delivered').nth(1).waitFor();
		await page.getByText('The last try failed').waitFor({ state: 'detached' });
		assert.equal(received.at(-1)?.headers['webhook-id'], received[1]?.headers['webhook-id']);

		await page.getByRole('button', { name: 'Make a new secret' }).click();
		assert.match(await page.getByRole('status').locator('code').innerText(), /^whsec_/);
		await page.getByText('The secret before is signed with, too').waitFor();
		await page.getByRole('button', { name: 'Ping', exact: true }).click();
		await deliveries.getByText('Delivered').nth(2).waitFor();
		assert.equal(String(received.at(-1)?.headers['webhook-signature']).split(' ').length, 2);

		await page.getByRole('button', { name: 'Edit' }).click();
		await page.getByLabel('Every event').check();
		await page.getByRole('button', { name: 'Save' }).click();
		await page.getByText('Into the chat · every event').waitFor();
		await page.getByRole('button', { name: 'Turn off' }).click();
		await page.getByRole('button', { name: 'Turn on' }).waitFor();
		await page.getByLabel('Which deliveries').selectOption('Failed');
		await deliveries.getByText('None of these.').waitFor();

		await page.setViewportSize({ width: 375, height: 700 });
		await page.goto(page.url().replace(/\?.*/, ''));
		await deliveries.getByRole('button', { name: /Delivered ping/ }).first().click();
		assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 375);
		await accessible(page, 'a webhook on a phone');
		await page.getByRole('button', { name: 'Remove this webhook' }).click();
		await page.getByRole('button', { name: 'Yes, remove with its deliveries' }).click();
		await page.getByText('None yet.').waitFor();
	});

	it('show an admin what was changed, by whom, and what a filter leaves of it', async () => {
		const page = await open();
		await logIn(page, server);
		await page.goto(server.url + '/audit');
		const entries = page.getByRole('list', { name: 'Entries' });
		await entries.getByText('webhook.deleted').waitFor();
		await accessible(page, 'the audit log');
		await page.getByLabel('Beginning of the action').fill('rule.');
		await page.keyboard.press('Enter');
		await page.waitForURL(/action=rule/);
		await entries.getByText('webhook.deleted').waitFor({ state: 'detached' });
		await entries.getByText('rule.deleted').waitFor();
		assert.match(await entries.getByText('rule.changed').first().locator('..').innerText(), /position: |enabled: |text: /);
		const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Export' }).click()]);
		assert.equal(download.suggestedFilename(), 'audit-log-1.jsonl');
	});

	it('rename the organization, turn what it does off and on, and remove a repository', async () => {
		const page = await open({ colorScheme: 'dark' });
		await logIn(page, server);
		await page.goto(server.url + '/organization');
		await page.getByLabel('Name of the organization').fill('Acme');
		await page.getByRole('button', { name: 'Rename' }).click();
		await page.getByRole('navigation', { name: 'Settings' }).getByText('Acme').waitFor();
		const opens = page.getByRole('checkbox', { name: 'Push branches and open pull requests' });
		const changed = page.waitForResponse((response) => response.request().method() === 'PATCH');
		await opens.uncheck();
		await changed;
		const { name, settings } = await server.call('GET', server.org);
		assert.deepEqual([name, settings.enable_pr_creation], ['Acme', false]);
		await page.reload();
		await opens.and(page.locator(':not(:checked)')).waitFor();
		await opens.check();
		await accessible(page, 'the organization');
		await page.goto(server.url + '/settings');
		await page.getByRole('list', { name: 'Members' }).waitFor();
		await accessible(page, 'members');

		const other = join(server.dir, 'acme', 'gone.git');
		cpSync(server.origin, other, { recursive: true });
		await server.call('POST', `${server.org}/repos`, { url: other });
		await page.goto(server.url + '/repos');
		await page.getByRole('button', { name: 'acme/gone', exact: true }).click();
		await page.getByRole('button', { name: 'Remove acme/gone' }).click();
		await accessible(page, 'a repository that may be removed');
		await page.getByRole('button', { name: 'Yes, remove gone' }).click();
		await page.getByRole('button', { name: 'acme/gone', exact: true }).waitFor({ state: 'detached' });
		const { items } = await server.call('GET', `${server.org}/repos`);
		assert.deepEqual(items.map((/** @type {any} */ repo) => repo.full_name), ['acme/shop']);
	});

	it('show a member only what is theirs to see', async () => {
		const { url } = await server.call('POST', `${server.org}/invitations`, { role: 'MEMBER' });
		const page = await open({ viewport: { width: 375, height: 700 }, isMobile: true, hasTouch: true });
		await page.goto(url);
		await page.getByLabel('Your name').fill('Bea');
		await page.getByRole('button', { name: 'Join' }).click();
		await page.getByRole('link', { name: 'Go on' }).click();
		await page.getByRole('link', { name: 'Settings' }).click();
		const pages = page.getByRole('navigation', { name: 'Settings' });
		await pages.getByRole('link', { name: 'Rules' }).click();
		assert.deepEqual(await pages.getByRole('link').allInnerTexts(), ['Members', 'Rules', 'Models', 'Connections', 'Tokens', 'Account']);
		await page.getByRole('list', { name: 'Rules of acme/shop' }).getByText('Prices are in cents.').waitFor();
		assert.equal(await page.getByRole('button', { name: 'Edit: Prices' }).count(), 0);
		assert.equal(await page.getByRole('list', { name: 'Your rules' }).getByText('German').count(), 0);
		assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 375);
		await accessible(page, 'rules of a member on a phone');
		await page.goto(server.url + '/webhooks');
		await page.getByRole('heading', { name: /MANAGER|manager|may/ }).waitFor();
	});

	it('end the session at log-out, here, on the server, and in what other tabs watch', async () => {
		const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt: 'Wait.' });
		const page = await open();
		await logIn(page, server);
		const [cookie] = await page.context().cookies();
		const watching = await page.context().newPage();
		await watching.goto(`${server.url}/runs/${id}`);
		await watching.getByText('it has begun').last().waitFor();
		const list = await page.context().newPage();
		await list.goto(server.url);
		await list.getByRole('link', { name: /Wait\./ }).waitFor();

		await page.getByRole('link', { name: 'Account' }).last().click();
		await page.getByRole('button', { name: 'Log out' }).click();
		await page.getByLabel('API token').waitFor();
		assert.deepEqual(await page.context().cookies(), []);
		const headers = { cookie: `${cookie?.name}=${cookie?.value}` };
		assert.equal((await fetch(`${server.url}/v1/session`, { headers })).status, 401);
		// Pages in the background hold no stream; shown again, they find that the log-in has ended.
		await watching.bringToFront();
		await watching.getByRole('link', { name: 'Your log-in has ended: log in again' }).waitFor();
		await list.bringToFront();
		await list.waitForURL(/\/login/);
		await server.call('POST', `${server.org}/agent/run/stop`, { agent_run_id: id });
	});

	it('say at log-in that too many have failed, and for how long', async () => {
		const page = await open({ viewport: { width: 375, height: 700 } });
		await page.goto(server.url + '/login');
		const field = page.getByLabel('API token');
		for (let tries = 0; tries < 11; tries++) {
			await field.fill('cgn_always_the_same');
			const answered = page.waitForResponse((response) => response.request().method() === 'POST');
			await page.keyboard.press('Enter');
			await answered;
		}
		await page.getByText(/Too many log-ins have failed\. Try again in 1\d m \d\d s\./).waitFor();
		await accessible(page, 'log-in after too many tries');
	});
});
