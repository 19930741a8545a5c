// Words about webhooks.

import type { WebhookResponse } from './api-types';

/** What happens to runs, as docs/webhooks.md has it. */
export const EVENTS = [
	'run.created',
	'run.started',
	'run.resumed',
	'run.completed',
	'run.failed',
	'run.stopped',
	'pull_request.opened',
	'pull_request.closed',
	'pull_request.merged'
];

export const eventsOf = (webhook: WebhookResponse) => (webhook.events.length ? webhook.events.join(', ') : 'every event');

/** How it goes, where there is something to say. */
export function troubleOf(webhook: WebhookResponse): string {
	if (!webhook.enabled) return webhook.disabled_reason ? `Turned off: ${webhook.disabled_reason}` : 'Off';
	return webhook.failures ? `The last ${webhook.failures === 1 ? 'try' : `${webhook.failures} tries`} failed` : '';
}

/** JSON in lines, or what it is. */
export function pretty(text: string): string {
	try {
		return JSON.stringify(JSON.parse(text), null, 2);
	} catch {
		return text;
	}
}
