import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	try {
		const [repos, models] = await Promise.all([api.repos(org.id), api.models(org.id)]);
		return { org: org.id, repos: repos.items, models };
	} catch (error) {
		refused(error, url);
	}
};
