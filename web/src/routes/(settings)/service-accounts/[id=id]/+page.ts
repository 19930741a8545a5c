import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, params, url }) => {
	const { org } = await atHome(parent, url);
	const id = Number(params.id);
	try {
		const [accounts, tokens] = await Promise.all([api.serviceAccounts(org.id), api.tokens({ org: org.id, account: id })]);
		return { org, id, account: accounts.items.find((one) => one.id === id), tokens };
	} catch (error) {
		refused(error, url);
	}
};
