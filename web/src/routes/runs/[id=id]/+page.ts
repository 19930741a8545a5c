import { api } from '$lib/api';
import { refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ params, url }) => {
	const path = url.pathname;
	try {
		return { screen: await api.screen(params.id) };
	} catch (error) {
		refused(error, new URL(path, location.origin));
	}
};
