import { api } from '$lib/api';
import { atHome, atLeast, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { session, org } = await atHome(parent, url);
	const manages = atLeast(org.role, 'MANAGER');
	try {
		const [users, invitations] = await Promise.all([api.users(org.id), manages ? api.invitations(org.id) : undefined]);
		return { org, manages, me: session.user.id, users, invitations };
	} catch (error) {
		refused(error, url);
	}
};
