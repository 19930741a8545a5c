import { api } from '$lib/api';
import { chosenOrg, refused } from '$lib/page.svelte';
import { redirect } from '@sveltejs/kit';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname)}`);
	const org = session.organizations.find((one) => one.id === chosenOrg(session));
	if (!org) redirect(307, '/');
	const manages = org.role === 'ADMIN' || org.role === 'MANAGER';
	try {
		const [users, invitations] = await Promise.all([api.users(org.id), manages ? api.invitations(org.id) : undefined]);
		return { org, manages, me: session.user.id, users, invitations };
	} catch (error) {
		refused(error, url);
	}
};
