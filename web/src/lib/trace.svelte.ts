// A run as its page knows it: the part of its log that was loaded, and what happens now.

import { api } from './api';
import type { RunScreen, RunView, TraceEntry } from './api-types';
import { Heights } from './heights';
import { follow, type ServerEvent } from './sse';

/** Entries asked for at a time. */
const PAGE = 100;
/** Characters of live output that are kept. */
const LIVE = 20_000;

type Body = Record<string, any>;
export type Entry = { seq: number; kind: string; at: number; body: Body };

/** Whether an entry has nothing to show: the beginning of a call whose end is there, or an answer of calls only. */
export function isHidden(entry: Entry): boolean {
	if (entry.kind === 'call_started') return !entry.body.name;
	if (entry.kind === 'reply') return !String(entry.body.text ?? '').trim();
	if (entry.kind === 'stage') return Boolean(entry.body.passed);
	return entry.kind === 'status' && entry.body.status === 'ACTIVE';
}

const parse = (data: string): Body => {
	try {
		const body: unknown = JSON.parse(data);
		return typeof body === 'object' && body !== null ? body : { text: String(body) };
	} catch {
		return { text: data };
	}
};

export class RunTrace {
	run: RunView = $state()!;
	stages: Entry[] = $state.raw([]);
	/** Entries there are, loaded or not. */
	total = $state(0);
	/** Grows with each change of what is loaded. */
	version = $state(0);
	/** What the model is saying. */
	liveText = $state('');
	/** What running calls have written, by call; of stages of the start by `stage:` and its name. */
	liveOutput: Record<string, string> = $state({});
	connected = $state(true);
	/** Whether the person's log-in has ended. */
	loggedOut = $state(false);
	/** Unfolded entries. */
	open: Record<number, boolean> = $state({});
	/** Whole outputs that were asked for. */
	whole: Record<number, string> = $state({});
	/** Entries with the text that is looked for. */
	matches: number[] = $state.raw([]);
	selected = $state(0);

	heights = new Heights();
	/** The list sets this, to keep in place what is looked at while something changes. */
	steady: (change: () => void) => void = (change) => change();

	private entries: (Entry | undefined)[] = [];
	private calls = new Map<string, { name: string; input: unknown }>();
	private started = new Map<string, number>();
	private finished = new Set<string>();
	private asked = new Set<number>();
	private leaving = new AbortController();
	private following = false;
	private ended = false;
	private pending = { text: '', output: new Map<string, string>() };
	private frame = 0;
	private refreshing: ReturnType<typeof setTimeout> | undefined;

	constructor(screen: RunScreen) {
		this.run = screen.run;
		this.stages = screen.stages as Entry[];
		this.grow(Math.max(screen.run.log_seq, screen.entries.at(-1)?.seq ?? 0));
		this.keep(screen.entries);
	}

	get live(): boolean {
		return this.run.phase !== 'done';
	}

	entry(seq: number): Entry | undefined {
		void this.version;
		return this.entries[seq];
	}

	/** Whether there is an entry to show, as far as known. */
	shows(seq: number): boolean {
		const entry = this.entries[seq];
		return !entry || !isHidden(entry);
	}

	private grow(total: number) {
		this.heights.grow(total);
		this.total = Math.max(this.total, total);
	}

	private keep(found: TraceEntry[]) {
		for (const { kind, body } of found as Entry[]) if (kind === 'call_finished') this.finish(body.call_id);
		for (const entry of found as Entry[]) {
			if (this.entries[entry.seq]) continue;
			this.entries[entry.seq] = entry;
			if (entry.kind === 'stage' && this.isPassed(entry)) this.entries[entry.seq] = { ...entry, body: { passed: true } };
			if (entry.kind === 'call_started' && this.finished.has(entry.body.call_id)) this.entries[entry.seq] = { ...entry, body: {} };
			const kept = this.entries[entry.seq];
			if (kept && isHidden(kept)) this.heights.set(entry.seq - 1, 0);
			else if (entry.kind === 'call_started') this.started.set(entry.body.call_id, entry.seq);
		}
		this.heights.learn();
		this.version++;
	}

	/** Whether a stage's entry says less than a later one of the same stage. */
	private isPassed(entry: Entry): boolean {
		const { name, state } = entry.body;
		if (state === 'done' || state === 'failed') return false;
		return this.stages.some((stage) => stage.body.name === name && stage.seq > entry.seq);
	}

	/** Loads the entries from the one to the other that are not there yet. */
	async load(first: number, last: number): Promise<void> {
		const pages: number[] = [];
		for (let seq = Math.max(1, first); seq <= Math.min(last, this.total); seq++) {
			const page = Math.floor((seq - 1) / PAGE);
			if (!this.entries[seq] && !this.asked.has(page)) {
				this.asked.add(page);
				pages.push(page);
			}
		}
		const load = async (page: number) => {
			try {
				const { entries } = await api.entries(this.run, (page + 1) * PAGE + 1, PAGE);
				this.steady(() => this.keep(entries));
			} catch {
				// It is asked for again when the place is looked at again.
			} finally {
				this.asked.delete(page);
			}
		};
		await Promise.all(pages.map(load));
	}

	/** Follows the run until it has ended or the page is left. */
	follow() {
		if (this.following || this.leaving.signal.aborted) return;
		this.following = true;
		this.ended = false;
		void follow({
			path: api.events(this.run),
			after: () => this.total,
			take: (events) => this.take(events),
			connected: (yes) => {
				if (yes && !this.connected) this.unsay();
				this.connected = yes;
			},
			refused: (status) => (this.loggedOut = status === 401),
			ended: () => this.ended,
			signal: this.leaving.signal
		}).finally(() => (this.following = false));
	}

	leave() {
		this.leaving.abort();
		cancelAnimationFrame(this.frame);
		clearTimeout(this.refreshing);
	}

	/** Asks for the run's row again, soon; once for what changes until then. */
	refresh(wait = 150) {
		if (this.refreshing !== undefined && wait) return;
		clearTimeout(this.refreshing);
		this.refreshing = setTimeout(async () => {
			this.refreshing = undefined;
			try {
				const run = await api.view(this.run);
				this.run = run;
				if (run.log_seq > this.total && !this.following) this.follow();
			} catch {
				// The next change asks again.
			}
		}, wait);
	}

	private take(events: ServerEvent[]) {
		// In their order: words that come together with their reply are not said after it.
		const each = () => events.forEach((event) => (event.id === undefined ? this.hear(event) : this.append(event)));
		if (events.some((event) => event.id !== undefined)) this.steady(each);
		else each();
		if (this.run.phase === 'queued' || this.run.phase === 'preparing') this.refresh();
	}

	/** Takes what nobody keeps. */
	private hear(event: ServerEvent) {
		const body = parse(event.data);
		if (event.event === 'end') {
			this.ended = true;
			this.unsay();
			this.refresh(0);
		} else if (event.event === 'text') this.say(() => (this.pending.text += body.text ?? ''));
		else if (event.event === 'call') this.calls.set(body.call_id, { name: body.name, input: body.input });
		else if (event.event === 'output') {
			const of = String(body.call_id ?? `stage:${body.stage}`);
			const before = this.pending.output.get(of) ?? '';
			this.say(() => this.pending.output.set(of, before + (body.text ?? '')));
		}
	}

	/** Shows deltas once a frame, however many there are. */
	private say(change: () => void) {
		change();
		this.frame ||= requestAnimationFrame(() => {
			this.frame = 0;
			const { text, output } = this.pending;
			this.pending = { text: '', output: new Map() };
			this.steady(() => {
				this.liveText += text;
				for (const [call, more] of output) this.liveOutput[call] = ((this.liveOutput[call] ?? '') + more).slice(-LIVE);
			});
		});
	}

	/** Forgets what the model was saying: the whole reply comes as an entry. */
	private unsay() {
		this.liveText = '';
		this.pending.text = '';
	}

	/** The end of a call is there: its beginning, if that is there too, shows nothing any more. */
	private finish(call: string) {
		this.finished.add(call);
		const began = this.started.get(call);
		const entry = began && this.entries[began];
		if (!began || !entry) return;
		this.entries[began] = { ...entry, body: {} };
		this.heights.set(began - 1, 0);
	}

	private append(event: ServerEvent) {
		const seq = Number(event.id);
		if (!Number.isSafeInteger(seq) || this.entries[seq]) return;
		const body = parse(event.data);
		const entry: Entry = { seq, kind: event.event, at: Date.now(), body };
		this.grow(seq);
		switch (entry.kind) {
			case 'reply': {
				for (const call of body.calls ?? []) this.calls.set(call.id, { name: call.name, input: call.input });
				this.unsay();
				const usage = body.usage ?? {};
				this.run.steps++;
				this.run.tokens_in += (usage.input ?? 0) + (usage.cache_read ?? 0) + (usage.cache_write ?? 0);
				this.run.tokens_out += usage.output ?? 0;
				this.run.cost += body.cost ?? 0;
				delete body.calls;
				delete body.opaque;
				break;
			}
			case 'call_started':
				Object.assign(body, this.calls.get(body.call_id));
				this.started.set(body.call_id, seq);
				break;
			case 'call_finished': {
				this.finish(body.call_id);
				delete this.liveOutput[body.call_id];
				this.pending.output.delete(body.call_id);
				break;
			}
			case 'stage':
				for (const { seq: before } of this.stages) {
					const passed = this.entries[before];
					if (passed?.body.name !== body.name || ['done', 'failed'].includes(passed?.body.state)) continue;
					this.entries[before] = { seq: before, kind: 'stage', at: entry.at, body: { passed: true } };
					this.heights.set(before - 1, 0);
				}
				if (['done', 'failed'].includes(body.state)) {
					delete this.liveOutput[`stage:${body.name}`];
					this.pending.output.delete(`stage:${body.name}`);
				}
				this.stages = [...this.stages, entry];
				this.refresh();
				break;
			case 'user_message':
				break;
			case 'notice':
				// A broken answer is asked for again, and comes from its beginning.
				this.unsay();
				this.refresh();
				break;
			default:
				this.refresh();
		}
		this.entries[seq] = entry;
		if (isHidden(entry)) this.heights.set(seq - 1, 0);
		this.version++;
	}
}
