import { api, type Filter } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

const FILTERS = ['status', 'repo_id', 'user_id', 'source_type', 'tag', 'archived'] as const;

export const load: PageLoad = async ({ url, parent }) => {
	const { org } = await atHome(parent, url);
	const filter: Filter = {};
	for (const key of FILTERS) {
		const value = url.searchParams.get(key);
		if (value) filter[key] = value;
	}
	try {
		const [list, repos, users] = await Promise.all([api.runs(org.id, filter), api.repos(org.id), api.users(org.id)]);
		return { org: org.id, filter, list, repos: repos.items, users: users.items };
	} catch (error) {
		refused(error, url);
	}
};
