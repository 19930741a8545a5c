import { api } from '$lib/api';
import { chosenOrg, refused } from '$lib/page.svelte';
import { redirect } from '@sveltejs/kit';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname + url.search)}`);
	const org = chosenOrg(session);
	try {
		const [repos, models] = await Promise.all([api.repos(org), api.models()]);
		return { org, repos: repos.items, models };
	} catch (error) {
		refused(error, url);
	}
};
