// Runs in a list.

import type { Filter } from './api';
import type { RunView } from './api-types';
import { duration, firstLine } from './text';

/** Whether a run that has changed belongs into a list. */
export function belongs(run: RunView, filter: Filter): boolean {
	return (
		(!filter.status || filter.status === run.status) &&
		(!filter.repo_id || Number(filter.repo_id) === run.repo_id) &&
		(!filter.user_id || Number(filter.user_id) === run.user_id) &&
		(!filter.source_type || filter.source_type === run.source_type) &&
		(!filter.tag || run.tags.includes(filter.tag)) &&
		(filter.archived === 'true') === run.archived
	);
}

/** What came of it, in a few words. */
export function outcome(run: RunView): string {
	if (run.phase !== 'done') return run.branch ?? '';
	return firstLine((run.status === 'COMPLETE' ? run.summary : run.result) ?? '');
}

export function took(run: RunView, now: number): string {
	if (!run.started_at) return '';
	const until = run.ended_at ? Date.parse(run.ended_at) : Math.max(now, Date.parse(run.started_at));
	return duration(until - Date.parse(run.started_at));
}
