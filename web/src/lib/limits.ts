// Limits of an organization, as a form has them: text, and nothing where nothing is set.

import type { LimitsInput, LimitsResponse, RateLimit } from './api-types';

/** Kinds of requests and what they count, as docs/limits.md has them. */
export const KINDS: [string, string][] = [
	['read', 'Reads'],
	['logs', 'Reads of a run’s log'],
	['create', 'New runs'],
	['setup_commands', 'Runs that write setup commands'],
	['analyze_logs', 'Runs that read logs of sandboxes'],
	['pull_requests', 'Changes of pull requests'],
	['rules', 'Reads of rules by command lines'],
	['write', 'All other changes'],
	['view', 'Pages of the web app'],
	['session_log', 'Lines of Claude Code sessions']
];

export type Numbers = { runs_per_month?: number; cost_per_month?: number; concurrent_runs?: number; concurrent_runs_per_user?: number };
export type Rates = Record<string, { requests?: number; seconds?: number }>;

const given = (value: number | null | undefined) => value ?? undefined;

export const numbersOf = (limits: LimitsResponse): Numbers => ({
	runs_per_month: given(limits.runs_per_month),
	cost_per_month: given(limits.cost_per_month),
	concurrent_runs: given(limits.concurrent_runs),
	concurrent_runs_per_user: given(limits.concurrent_runs_per_user)
});

const same = (a: RateLimit | undefined, b: RateLimit | undefined) => a?.requests === b?.requests && a?.seconds === b?.seconds;

/** Those that the organization has set; the others stay the server's, whatever becomes of those. */
export function ratesOf({ rate_limits, usual_rate_limits }: LimitsResponse): Rates {
	const own = (kind: string) => !same(rate_limits[kind], usual_rate_limits[kind]);
	return Object.fromEntries(KINDS.map(([kind]) => [kind, own(kind) ? { ...rate_limits[kind] } : {}]));
}

/** All of it, as it is sent: what is left out has no limit, or the server's. */
export function inputOf(numbers: Numbers, rates: Rates, usual: Record<string, RateLimit>): LimitsInput {
	const set = Object.entries(rates).flatMap(([kind, { requests, seconds }]): [string, RateLimit][] => {
		const there = usual[kind];
		if (requests == null && seconds == null) return [];
		return [[kind, { requests: requests ?? there?.requests ?? 1, seconds: seconds ?? there?.seconds ?? 1 }]];
	});
	// A field that was emptied is null.
	const amounts = Object.fromEntries(Object.entries(numbers).filter(([, value]) => value != null));
	return { ...amounts, rate_limits: Object.fromEntries(set) };
}
