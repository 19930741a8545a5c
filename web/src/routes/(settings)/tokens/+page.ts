import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	await atHome(parent, url);
	try {
		return { tokens: await api.tokens() };
	} catch (error) {
		refused(error, url);
	}
};
