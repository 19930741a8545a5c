import { api, type Filter } from '$lib/api';
import { chosenOrg, refused } from '$lib/page.svelte';
import { redirect } from '@sveltejs/kit';
import type { PageLoad } from './$types';

const FILTERS = ['status', 'repo_id', 'user_id', 'source_type'] as const;

export const load: PageLoad = async ({ url, parent }) => {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname + url.search)}`);
	const org = chosenOrg(session);
	const filter: Filter = {};
	for (const key of FILTERS) {
		const value = url.searchParams.get(key);
		if (value) filter[key] = value;
	}
	try {
		const [list, repos, users] = await Promise.all([api.runs(org, filter), api.repos(org), api.users(org)]);
		return { org, filter, list, repos: repos.items, users: users.items };
	} catch (error) {
		refused(error, url);
	}
};
