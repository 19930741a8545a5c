import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	try {
		return { org, limits: await api.limits(org.id) };
	} catch (error) {
		refused(error, url);
	}
};
