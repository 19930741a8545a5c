import { api, Refused } from '$lib/api';
import type { LayoutLoad } from './$types';

export const ssr = false;
export const prerender = false;
export const trailingSlash = 'never';

export const load: LayoutLoad = async ({ depends, untrack, url }) => {
	depends('app:session');
	// Untracked, else each navigation would ask for the session again.
	if (['/login', '/join'].includes(untrack(() => url.pathname))) return { session: undefined };
	try {
		return { session: await api.session() };
	} catch (error) {
		// The page's own request finds the same, and sends the person to log in.
		if (error instanceof Refused && error.status === 401) return { session: undefined };
		throw error;
	}
};
