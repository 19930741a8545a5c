import { api } from '$lib/api';
import { atHome, atLeast, refused } from '$lib/page.svelte';
import type { PageLoad } from './$types';

export const load: PageLoad = async ({ parent, url, depends }) => {
	depends('app:rules');
	const { org } = await atHome(parent, url);
	const wanted = Number(url.searchParams.get('repo'));
	try {
		const [repos, ours, mine] = await Promise.all([api.repos(org.id), api.rules(org.id, 'rules'), api.rules(org.id, 'my-rules')]);
		const repo = repos.items.find((one) => one.id === wanted) ?? repos.items[0];
		const theirs = repo && (await api.rules(org.id, `repos/${repo.id}/rules`));
		return { org, mayChange: atLeast(org.role, 'MANAGER'), repos: repos.items, repo, ours, theirs, mine };
	} catch (error) {
		refused(error, url);
	}
};
