import { api, Refused } from '$lib/api';
import { refused } from '$lib/page.svelte';
import { redirect } from '@sveltejs/kit';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ params, parent, url }) => {
	const { session } = await parent();
	if (!session) redirect(307, `/login?next=${encodeURIComponent(url.pathname)}`);
	for (const org of session.organizations) {
		try {
			const pull = await api.pull(org.id, params.id);
			return { pull, screen: await api.screen(pull.agent_run_id) };
		} catch (error) {
			if (!(error instanceof Refused && error.status === 404)) refused(error, url);
		}
	}
	throw new Refused(404, 'There is no such pull request, or it is not yours.');
};
