import { api } from '$lib/api';
import { atHome, atLeast, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	try {
		const [models, accounts] = await Promise.all([
			api.models(org.id),
			atLeast(org.role, 'ADMIN') ? api.modelProviders(org.id) : undefined
		]);
		return { org, models, accounts };
	} catch (error) {
		refused(error, url);
	}
};
