// A real server with a model that replays a script, a repository to work on, and a real browser.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

const root = new URL('../..', import.meta.url).pathname;
export const BINARY = process.env.CODEGEN_BINARY ?? join(root, 'target/debug/codegen');
export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

/**
 * @typedef {{ text?: string, expect?: string, calls?: { name: string, input: object }[] }} Reply
 * @typedef {Awaited<ReturnType<typeof serve>>} Server
 */

/** @param {Reply[]} replies @param {{ files?: Record<string, string>, env?: Record<string, string> }} [more] */
export async function serve(replies, { files = {}, env = {} } = {}) {
	const dir = mkdtempSync(join(tmpdir(), 'codegen-web-'));
	const script = join(dir, 'script.json');
	writeFileSync(script, JSON.stringify({ replies }));
	const origin = join(dir, 'acme', 'shop.git');
	repository(dir, origin, files);

	const theirs = Object.entries(process.env).filter(([key]) => !/^CODEGEN_|_API_KEY$|_BASE_URL$/.test(key));
	async function begin(/** @type {string} */ address) {
		const child = spawn(BINARY, ['serve', '--addr', address], {
			env: { ...Object.fromEntries(theirs), CODEGEN_DATA_DIR: join(dir, 'data'), CODEGEN_DEFAULT_MODEL: `scripted:${script}`, ...env },
			stdio: ['ignore', 'pipe', 'inherit']
		});
		const exited = new Promise((resolve) => child.once('exit', resolve));
		const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
		const line = async (/** @type {string} */ before) => {
			const { value } = await lines.next();
			if (!value?.startsWith(before)) throw new Error(`the server said ${value}`);
			return value.slice(before.length);
		};
		return { child, exited, line, url: await line('codegen is at ') };
	}
	let running = await begin('127.0.0.1:0');
	const { url } = running;
	const token = await running.line('token (shown once): ');

	/** @param {string} method @param {string} path @param {object} [body] */
	async function call(method, path, body) {
		const response = await fetch(url + path, {
			method,
			headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
			body: body && JSON.stringify(body)
		});
		if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${await response.text()}`);
		return response.json();
	}
	const { items } = await call('GET', '/v1/organizations');
	const org = `/v1/organizations/${items[0].id}`;
	return {
		url,
		token,
		dir,
		origin,
		call,
		org,
		/** Waits until a run has ended. @param {number} id */
		async ended(id) {
			// The stream of a run ends with it.
			const events = await fetch(`${url}${org}/agent/run/${id}/events`, { headers: { authorization: `Bearer ${token}` } });
			await events.text();
		},
		/** Waits until the search, which is filled after the logs, finds words in so many runs. @param {string} text @param {number} runs */
		async found(text, runs) {
			for (let tries = 0; tries < 100; tries++) {
				const { items } = await call('GET', `${org}/agent/runs/search?text=${encodeURIComponent(text)}`);
				if (items.length === runs) return;
				await new Promise((resolve) => setTimeout(resolve, 100));
			}
			throw new Error(`"${text}" is not found in ${runs} runs`);
		},
		/** Ends it without warning; `again` starts it at the same address. */
		async kill() {
			running.child.kill('SIGKILL');
			await running.exited;
		},
		async again() {
			running = await begin(new URL(url).host);
		},
		async stop() {
			running.child.kill('SIGTERM');
			await running.exited;
			remove(dir);
		}
	};
}

/** An ordinary user's sandboxes leave folders of mapped ids, which only a namespace with those ids can remove. @param {string} dir */
function remove(dir) {
	try {
		rmSync(dir, { recursive: true, force: true });
	} catch {
		execFileSync('unshare', ['--map-auto', '--map-root-user', 'rm', '-rf', dir]);
	}
}

/** @param {string} dir @param {string} origin @param {Record<string, string>} files */
function repository(dir, origin, files) {
	const work = join(dir, 'work');
	const who = { GIT_AUTHOR_NAME: 'Ann', GIT_AUTHOR_EMAIL: 'ann@example.com', GIT_COMMITTER_NAME: 'Ann', GIT_COMMITTER_EMAIL: 'ann@example.com' };
	const git = (/** @type {string[]} */ ...args) => execFileSync('git', args, { env: { ...process.env, ...who }, stdio: 'pipe' });
	git('init', '-q', '--bare', '-b', 'main', origin);
	git('clone', '-q', origin, work);
	for (const [name, text] of Object.entries({ 'README.md': '# Shop\n', ...files })) writeFileSync(join(work, name), text);
	git('-C', work, 'add', '-A');
	git('-C', work, 'commit', '-q', '-m', 'Start');
	git('-C', work, 'push', '-q', 'origin', 'HEAD:main');
}

export function browser() {
	// Root needs --no-sandbox; the rest keeps Chromium from calling its vendor.
	const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
	return chromium.launch({ executablePath: CHROMIUM, args });
}

/** Logs in through the page. @param {import('playwright-core').Page} page @param {Server} server */
export async function logIn(page, server) {
	await page.goto(server.url + '/');
	await page.getByLabel('API token').fill(server.token);
	await page.getByRole('button', { name: 'Log in' }).click();
	await page.getByRole('heading', { name: 'Runs', exact: true }).waitFor({ state: 'attached' });
}

/** Begins to measure how much a page shifts by itself. @param {import('playwright-core').Page} page */
export async function shiftOf(page) {
	await page.evaluate(() => {
		/** @type {any} */ (window).shift = 0;
		new PerformanceObserver((list) => {
			for (const entry of /** @type {any[]} */ (list.getEntries())) if (!entry.hadRecentInput) /** @type {any} */ (window).shift += entry.value;
		}).observe({ type: 'layout-shift' });
	});
	return () => page.evaluate(() => /** @type {any} */ (window).shift);
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** @param {import('playwright-core').Page} page @param {string} what */
export async function accessible(page, what) {
	await page.evaluate(AXE);
	const violations = await page.evaluate(async () => {
		const found = await /** @type {any} */ (window).axe.run(document, { resultTypes: ['violations'] });
		return found.violations.map((/** @type {any} */ v) => `${v.id}: ${v.nodes.map((/** @type {any} */ n) => n.html.slice(0, 160)).join(' | ')}`);
	});
	assert.deepEqual(violations, [], what);
}
