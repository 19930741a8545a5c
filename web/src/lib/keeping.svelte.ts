// What becomes of runs that are there: their tags, put away, removed.

import { page } from '$app/state';
import { Acting } from './acting.svelte';
import { api } from './api';
import type { RunView, SessionResponse } from './api-types';
import { atLeast } from './page.svelte';

export class Keeping extends Acting {
	/** What is told of each run that was changed, and of each that is gone. */
	constructor(
		readonly edited: (run: RunView) => void,
		readonly gone: (id: number) => void
	) {
		super(() => Promise.resolve());
	}

	set = (runs: RunView[], tagsOf: (run: RunView) => string[]) =>
		this.#each(runs, async (run) => {
			const { tags } = await api.editRun(run, { tags: tagsOf(run) });
			this.edited({ ...run, tags });
		});

	archive = (runs: RunView[], archived: boolean) =>
		this.#each(runs, async (run) => {
			await api.editRun(run, { archived });
			this.edited({ ...run, archived });
		});

	remove = (runs: RunView[]) =>
		this.#each(runs, async (run) => {
			await api.removeRun(run);
			this.gone(run.id);
		});

	/** One after the other; those before one that is refused are done. */
	#each(runs: RunView[], what: (run: RunView) => Promise<void>): Promise<boolean> {
		return this.do(async () => {
			for (const run of runs) await what(run);
		});
	}
}

/** Members remove their own runs, managers any. */
export function mayRemove(run: RunView): boolean {
	const session = page.data.session as SessionResponse | undefined;
	const role = session?.organizations.find((org) => org.id === run.organization_id)?.role;
	return run.user_id === session?.user.id || atLeast(role, 'MANAGER');
}
