import { api } from '$lib/api';
import { atHome, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

/** Deliveries that are listed at first. */
const FEW = 20;

export const load: PageLoad = async ({ parent, url, params, depends }) => {
	depends('app:webhook');
	const { org } = await atHome(parent, url);
	const state = url.searchParams.get('state') ?? '';
	const limit = Number(url.searchParams.get('limit')) || FEW;
	try {
		const [webhook, deliveries] = await Promise.all([
			api.webhook(org.id, params.id),
			api.deliveries(org.id, params.id, state, Math.min(limit, 100))
		]);
		return { org, webhook, deliveries, state };
	} catch (error) {
		refused(error, url);
	}
};
