// Words that the server looks for in prompts, results and logs of runs, while a person types them.

import { api, words as sentence, type Filter } from './api';
import type { RunView } from './api-types';
import { markedAt, type Part } from './marks';

/** What is typed further within this time is asked with it. */
const PAUSE = 200;

export type Found = { run: RunView; seq?: number; words: Part[] };
type Places = { seq: number; snippet: string; highlights: number[][] }[];

export class Finding {
	/** What was asked last. */
	asked = $state('');
	searching = $state(false);
	problem = $state('');
	found: Found[] = $state.raw([]);
	next: number | undefined = $state();
	#org = 0;
	#filter: Filter = {};
	#leaving = new AbortController();
	#timer: ReturnType<typeof setTimeout> | undefined;

	/** Looks for these words in a while; what was found for others stays until then. */
	look(org: number, filter: Filter, text: string) {
		this.leave();
		const wanted = text.trim();
		[this.#org, this.#filter] = [org, filter];
		if (wanted.length < 2) {
			[this.asked, this.found, this.next, this.searching, this.problem] = ['', [], undefined, false, ''];
			return;
		}
		this.searching = true;
		this.#timer = setTimeout(() => void this.#ask(wanted, undefined), PAUSE);
	}

	/** Asks for older ones, or once more where asking did not work. */
	more() {
		this.leave();
		this.searching = true;
		void this.#ask(this.asked, this.problem ? undefined : this.next);
	}

	/** Takes no answer to what was asked. */
	leave() {
		clearTimeout(this.#timer);
		this.#leaving.abort();
		this.#leaving = new AbortController();
	}

	async #ask(text: string, before: number | undefined) {
		const { signal } = this.#leaving;
		try {
			const [list, places] = await Promise.all([
				api.runs(this.#org, { ...this.#filter, text }, before, signal),
				api.search(this.#org, text, before, signal)
			]);
			if (signal.aborted) return;
			const at = new Map(places.items.map(({ run, matches }) => [run.id, matches]));
			const found = list.items.map((run) => ({ run, ...best(at.get(run.id) ?? []) }));
			this.found = before ? [...this.found, ...found] : found;
			this.next = list.next ?? undefined;
			this.problem = '';
		} catch (error) {
			if (signal.aborted) return;
			this.problem = sentence(error);
			if (!before) [this.found, this.next] = [[], undefined];
		}
		[this.asked, this.searching] = [text, false];
	}
}

/** The place that says most about what was looked for. */
function best(places: Places): { seq?: number; words: Part[] } {
	let place: Places[number] | undefined;
	for (const one of places) if (!place || one.highlights.length > place.highlights.length) place = one;
	return place ? { seq: place.seq, words: markedAt(place.snippet, place.highlights) } : { words: [] };
}
