import { api, Refused } from '$lib/api';
import type { LayoutLoad } from './$types';

export const ssr = false;
export const prerender = false;
export const trailingSlash = 'never';

export const load: LayoutLoad = async ({ depends }) => {
	depends('app:session');
	// The address is not asked of the router: each navigation would ask for the session again.
	if (location.pathname === '/login') return { session: undefined };
	try {
		return { session: await api.session() };
	} catch (error) {
		// The page's own request finds the same, and sends the person to log in.
		if (error instanceof Refused) return { session: undefined };
		throw error;
	}
};
