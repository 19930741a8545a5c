// Server-sent events over fetch, which can name the last event it has seen.

export type ServerEvent = { id?: string; event: string; data: string };

/** Takes text in pieces of any size and gives the events that are complete. */
export class EventReader {
	private rest = '';

	take(piece: string): ServerEvent[] {
		this.rest += piece;
		const found: ServerEvent[] = [];
		for (;;) {
			const end = /\r?\n\r?\n/.exec(this.rest);
			if (!end) return found;
			const event = parse(this.rest.slice(0, end.index));
			this.rest = this.rest.slice(end.index + end[0].length);
			if (event) found.push(event);
		}
	}
}

function parse(block: string): ServerEvent | undefined {
	const event: ServerEvent = { event: 'message', data: '' };
	const data: string[] = [];
	for (const line of block.split(/\r?\n/)) {
		const colon = line.indexOf(':');
		if (colon === 0) continue;
		const field = colon < 0 ? line : line.slice(0, colon);
		const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
		if (field === 'id') event.id = value;
		else if (field === 'event') event.event = value;
		else if (field === 'data') data.push(value);
	}
	if (!data.length) return undefined;
	event.data = data.join('\n');
	return event;
}

const pause = (ms: number, signal: AbortSignal) =>
	new Promise<void>((resolve) => {
		const timer = setTimeout(resolve, ms);
		signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true });
	});

/** Whether the page is looked at; a hidden one holds no connection, of which a browser has six. */
const seen = (signal: AbortSignal) =>
	new Promise<void>((resolve) => {
		if (document.visibilityState === 'visible' || signal.aborted) return resolve();
		const look = () => {
			if (document.visibilityState !== 'visible' && !signal.aborted) return;
			document.removeEventListener('visibilitychange', look);
			resolve();
		};
		document.addEventListener('visibilitychange', look);
		signal.addEventListener('abort', look, { once: true });
	});

/** The server says something every 15 s; a connection that is silent for longer than this is gone. */
const SILENCE = 40_000;

export type Follow = {
	path: string;
	/** The last event that was seen; asked at each connection. */
	after?: () => number;
	/** Events as they come, several at a time. */
	take: (events: ServerEvent[]) => void;
	/** Whether the connection holds. */
	connected: (yes: boolean) => void;
	/** The server refuses, and will again: the person's log-in has ended, or what is followed is gone. */
	refused?: (status: number) => void;
	/** Returns true when there is nothing more to come. */
	ended: () => boolean;
	signal: AbortSignal;
};

/** Follows a stream until it has ended, connecting anew when the connection breaks or the page is shown again. */
export async function follow({ path, after, take, connected, refused, ended, signal }: Follow): Promise<void> {
	let failures = 0;
	while (!signal.aborted && !ended()) {
		await seen(signal);
		if (signal.aborted) return;
		const connection = new AbortController();
		const stop = () => connection.abort();
		const hide = () => document.visibilityState === 'hidden' && stop();
		signal.addEventListener('abort', stop, { once: true });
		document.addEventListener('visibilitychange', hide);
		let silence = setTimeout(stop, SILENCE);
		try {
			const headers: Record<string, string> = { accept: 'text/event-stream' };
			if (after) headers['last-event-id'] = String(after());
			const response = await fetch(path, { headers, signal: connection.signal });
			if ([401, 403, 404].includes(response.status)) return refused?.(response.status);
			if (!response.ok || !response.body) throw new Error(`status ${response.status}`);
			connected(true);
			failures = 0;
			const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
			const events = new EventReader();
			for (;;) {
				const { done, value } = await reader.read();
				if (done) break;
				clearTimeout(silence);
				silence = setTimeout(stop, SILENCE);
				const found = events.take(value);
				if (found.length) take(found);
			}
		} catch {
			failures++;
		} finally {
			clearTimeout(silence);
			signal.removeEventListener('abort', stop);
			document.removeEventListener('visibilitychange', hide);
		}
		if (signal.aborted || ended()) return;
		connected(false);
		if (document.visibilityState === 'visible') await pause(Math.min(10_000, 300 * 2 ** failures), signal);
	}
}
