import { api } from '$lib/api';
import { atHome, atLeast, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	try {
		return { org: org.id, mayChange: atLeast(org.role, 'MANAGER'), mayRemove: atLeast(org.role, 'ADMIN'), repos: (await api.repos(org.id)).items };
	} catch (error) {
		refused(error, url);
	}
};
