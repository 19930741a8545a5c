import { api } from '$lib/api';
import { chosenOrg, refused } from '$lib/page.svelte';
import { redirect } from '@sveltejs/kit';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname)}`);
	const org = chosenOrg(session);
	const role = session.organizations.find((one) => one.id === org)?.role;
	try {
		return { org, mayChange: role === 'ADMIN' || role === 'MANAGER', repos: (await api.repos(org)).items };
	} catch (error) {
		refused(error, url);
	}
};
