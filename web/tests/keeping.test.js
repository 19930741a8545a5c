// What becomes of runs in their list and on their page: tags, the archive, removal.
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { accessible, browser, logIn, serve } from './server.js';

const DONE = [{ text: '', calls: [{ name: 'finish', input: { summary: 'Done', success: true } }] }];

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

/** A run that has ended. @param {string} prompt @param {string[]} [tags] @returns {Promise<number>} */
async function run(prompt, tags) {
	const { id } = await server.call('POST', `${server.org}/agent/run`, { prompt, tags });
	await server.ended(id);
	return id;
}

before(async () => {
	server = await serve(DONE);
	chromium = await browser();
});
after(async () => {
	await chromium?.close();
	await server?.stop();
});

describe('runs that are kept', () => {
	it('are tagged and filtered by a tag, one or several, by mouse and key', async () => {
		const first = await run('Mend the nightly test.', ['nightly']);
		const second = await run('Read the logs.');
		const third = await run('Write the notes.');
		const page = await open();
		await logIn(page, server);
		await page.getByRole('link', { name: /Mend the nightly test\.\s+nightly/ }).waitFor();
		await page.getByLabel(`Choose run ${first}`).check();
		await page.getByLabel(`Choose run ${second}`).check();
		const bar = page.getByRole('region', { name: 'Chosen runs' });
		await bar.getByText('2 runs chosen').waitFor();
		await accessible(page, 'chosen runs');
		await bar.getByLabel('Tags to add').fill('api, slow');
		await page.keyboard.press('Enter');
		await page.getByRole('link', { name: /Read the logs\.\s+api\s+slow/ }).waitFor();
		await bar.getByRole('button', { name: 'Take off slow' }).click();
		await bar.getByRole('button', { name: 'Take off slow' }).waitFor({ state: 'detached' });
		const tags = async (/** @type {number} */ id) => (await server.call('GET', `${server.org}/agent/run/${id}/view`)).tags;
		assert.deepEqual([await tags(first), await tags(second), await tags(third)], [['nightly', 'api'], ['api'], []]);
		// What is refused is said, and stays in the field.
		await bar.getByLabel('Tags to add').fill('t'.repeat(65));
		await bar.getByRole('button', { name: 'Add' }).click();
		await bar.getByRole('alert').filter({ hasText: '64 characters' }).waitFor();
		await bar.getByRole('button', { name: 'None' }).click();
		await bar.waitFor({ state: 'detached' });

		await page.getByLabel('Tag', { exact: true }).fill('nightly');
		await page.keyboard.press('Enter');
		await page.waitForURL(/tag=nightly/);
		await page.getByRole('link', { name: /Read the logs/ }).waitFor({ state: 'detached' });
		// A run that gets the tag elsewhere comes by itself.
		await server.call('PATCH', `${server.org}/agent/run/${third}`, { tags: ['nightly'] });
		await page.getByRole('link', { name: /Write the notes/ }).waitFor();
		await page.goto(server.url);
		await page.getByRole('link', { name: /Write the notes/ }).waitFor();
		await page.keyboard.press('j');
		await page.keyboard.press('x');
		await bar.getByText('1 run chosen').waitFor();
		await bar.getByRole('button', { name: /All 3/ }).click();
		await bar.getByText('3 runs chosen').waitFor();
	});

	it('are archived and taken back, in lists of others, too', async () => {
		const id = await run('Put me away.');
		const page = await open({ colorScheme: 'dark' });
		const other = await open();
		for (const one of [page, other]) await logIn(one, server);
		const row = (/** @type {import('playwright-core').Page} */ on) => on.getByRole('link', { name: /Put me away/ });
		await row(other).waitFor();
		await page.getByLabel(`Choose run ${id}`).check();
		await page.getByRole('button', { name: 'Archive', exact: true }).click();
		await row(page).waitFor({ state: 'detached' });
		await row(other).waitFor({ state: 'detached' });
		// By key one goes on from the list.
		await page.locator('a.run:focus').waitFor();
		await page.getByLabel('Archived or not').selectOption('Archived');
		await page.waitForURL(/archived=true/);
		await page.getByLabel(`Choose run ${id}`).check();
		await accessible(page, 'archived runs');
		await page.getByRole('button', { name: 'Take back' }).click();
		await page.getByText('No run fits.').waitFor();
		await row(other).waitFor();
	});

	it('are removed by whoever may, after one more question, and are gone in lists of others', async () => {
		const [id, kept] = [await run('Remove me.'), await run('Keep me.')];
		const page = await open();
		const other = await open();
		for (const one of [page, other]) await logIn(one, server);
		await other.getByRole('link', { name: /Remove me/ }).waitFor();
		await page.getByLabel(`Choose run ${id}`).check();
		await page.getByRole('button', { name: 'Delete what is chosen' }).click();
		await page.getByRole('button', { name: 'No', exact: true }).click();
		await page.getByRole('button', { name: 'Delete what is chosen' }).click();
		await page.getByRole('button', { name: 'Yes, delete for good' }).click();
		await page.getByRole('link', { name: /Remove me/ }).waitFor({ state: 'detached' });
		await other.getByRole('link', { name: /Remove me/ }).waitFor({ state: 'detached' });
		await assert.rejects(server.call('GET', `${server.org}/agent/run/${id}`), /404/);

		// A member does not remove what others ran, but may tag it.
		const { url } = await server.call('POST', `${server.org}/invitations`, { role: 'MEMBER' });
		const member = await open({ viewport: { width: 360, height: 700 }, isMobile: true, hasTouch: true, colorScheme: 'dark' });
		await member.goto(url);
		await member.getByLabel('Your name').fill('Bea');
		await member.getByRole('button', { name: 'Join' }).click();
		await member.getByRole('link', { name: 'Go on' }).click();
		await member.getByLabel(`Choose run ${kept}`).check();
		const bar = member.getByRole('region', { name: 'Chosen runs' });
		await bar.getByRole('button', { name: 'Archive' }).waitFor();
		assert.equal(await bar.getByRole('button', { name: /Delete/ }).count(), 0);
		await bar.getByLabel('Tags to add').fill('bea');
		await bar.getByRole('button', { name: 'Add' }).click();
		await bar.getByRole('link', { name: 'bea' }).waitFor();
		assert.equal(await member.evaluate(() => document.documentElement.scrollWidth), 360);
		await accessible(member, 'chosen runs on a phone');
	});

	it('are tagged, archived and removed on their page', async () => {
		const id = await run('Look at me.');
		const page = await open();
		await logIn(page, server);
		await page.goto(`${server.url}/runs/${id}`);
		const details = page.getByRole('complementary', { name: 'Details' });
		await details.getByLabel('Tags to add').fill('seen');
		await page.keyboard.press('Enter');
		await details.getByRole('link', { name: 'seen' }).waitFor();
		await details.getByRole('button', { name: 'Archive' }).click();
		await details.getByText('· archived').waitFor();
		await accessible(page, 'an archived run');
		await details.getByRole('link', { name: 'seen' }).click();
		await page.waitForURL(/tag=seen/);
		await page.getByText('No run fits.').waitFor();
		await page.goto(`${server.url}/runs/${id}`);
		await details.getByRole('button', { name: 'Delete this run' }).click();
		await details.getByRole('button', { name: 'Yes, delete for good' }).click();
		await page.waitForURL(server.url + '/');
		await assert.rejects(server.call('GET', `${server.org}/agent/run/${id}`), /404/);
	});
});
