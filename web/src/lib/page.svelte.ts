// What all pages share: the time, the theme, the organization.

import { redirect } from '@sveltejs/kit';
import { Refused } from './api';
import type { SessionOrganization, SessionResponse } from './api-types';

export const now = $state({ ms: Date.now() });

/** Moves the time on; more often where a duration is being watched. */
export function tick(every: number): () => void {
	const timer = setInterval(() => (now.ms = Date.now()), every);
	return () => clearInterval(timer);
}

function remembered(key: string): string | undefined {
	try {
		return localStorage.getItem(key) ?? undefined;
	} catch {
		return undefined;
	}
}

function remember(key: string, value: string | undefined) {
	try {
		if (value === undefined) localStorage.removeItem(key);
		else localStorage.setItem(key, value);
	} catch {
		// A browser that keeps nothing forgets it at the next load.
	}
}

/** Light, dark, or as the system has it. */
export function turnTheme() {
	const root = document.documentElement;
	const dark = matchMedia('(prefers-color-scheme: dark)').matches;
	const shown = root.dataset.theme ?? (dark ? 'dark' : 'light');
	const next = shown === 'dark' ? 'light' : 'dark';
	if ((next === 'dark') === dark) delete root.dataset.theme;
	else root.dataset.theme = next;
	remember('theme', root.dataset.theme);
}

/** The organization that was looked at last, else the first. */
export function chosenOrg(session: SessionResponse): number {
	const last = Number(remembered('org'));
	return (session.organizations.find((org) => org.id === last) ?? session.organizations[0])?.id ?? 0;
}

export const chooseOrg = (id: number) => remember('org', String(id));

/** Roles and their words, each including those before it. */
export const ROLES: [string, string][] = [
	['MEMBER', 'Member'],
	['MANAGER', 'Manager'],
	['ADMIN', 'Admin']
];
const rank = (role: string | null | undefined) => ROLES.findIndex(([word]) => word === role);
/** Whether a role includes another. */
export const atLeast = (role: string | null | undefined, least: 'MANAGER' | 'ADMIN') => rank(role) >= rank(least);
export const roleWord = (role: string | null | undefined) => ROLES[rank(role)]?.[1] ?? '';

/** Who is logged in, and the organization that is looked at; who is not logs in, and comes back. */
export async function atHome(parent: () => Promise<{ session?: SessionResponse }>, url: URL) {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname + url.search)}`);
	const none: SessionOrganization = { id: 0, name: 'No organization' };
	const org = session.organizations.find((one) => one.id === chosenOrg(session)) ?? none;
	return { session, org };
}

/** What a load function does about a refusal: who is not logged in logs in and comes back. */
export function refused(error: unknown, url: URL): never {
	if (error instanceof Refused && error.status === 401) {
		redirect(307, `/login?next=${encodeURIComponent(url.pathname + url.search)}`);
	}
	throw error;
}
