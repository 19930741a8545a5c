import type { ParamMatcher } from '@sveltejs/kit';

/** A number of something; other addresses are of no page. */
export const match: ParamMatcher = (text) => /^\d{1,15}$/.test(text);
