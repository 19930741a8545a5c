import { api } from '$lib/api';
import { atHome, atLeast, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	try {
		const manages = atLeast(org.role, 'MANAGER');
		return { org, manages, owns: atLeast(org.role, 'ADMIN'), organization: await api.organization(org.id) };
	} catch (error) {
		refused(error, url);
	}
};
