import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url }) => {
	const { org } = await atHome(parent, url);
	try {
		const [providers, connected, { integrations }] = await Promise.all([
			api.oauthProviders(),
			api.connections(org.id),
			api.integrations(org.id)
		]);
		// As the way back from a provider says it.
		const { searchParams } = url;
		return { org, providers, connected, integrations, back: searchParams.get('connected'), failed: searchParams.get('failed') };
	} catch (error) {
		refused(error, url);
	}
};
