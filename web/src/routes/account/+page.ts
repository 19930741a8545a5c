import { api } from '$lib/api';
import { refused } from '$lib/page.svelte';
import { redirect } from '@sveltejs/kit';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname)}`);
	try {
		return { session, logins: await api.logins() };
	} catch (error) {
		refused(error, url);
	}
};
