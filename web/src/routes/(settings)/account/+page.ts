import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { session } = await atHome(parent, url);
	try {
		return { session, logins: await api.logins() };
	} catch (error) {
		refused(error, url);
	}
};
