import { api, type AuditFilter } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

const FILTERS = ['user_id', 'action', 'target'] as const;

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	const filter: AuditFilter = {};
	for (const key of FILTERS) {
		const value = url.searchParams.get(key);
		if (value) filter[key] = value;
	}
	try {
		const [entries, users] = await Promise.all([api.audit(org.id, filter), api.users(org.id)]);
		return { org, filter, entries, users: users.items };
	} catch (error) {
		refused(error, url);
	}
};
