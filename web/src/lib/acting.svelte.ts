// What a person does on a page of settings: one thing at a time, then what is shown is what is.

import { invalidateAll } from '$app/navigation';
import { words } from './api';

export class Acting {
	busy = $state(false);
	problem = $state('');
	#again: () => Promise<unknown>;

	constructor(again: () => Promise<unknown> = invalidateAll) {
		this.#again = again;
	}

	/** Does it, says what was wrong with it, and reads anew, also after a refusal. Says whether it was done. */
	async do(what: () => Promise<unknown>): Promise<boolean> {
		this.problem = '';
		this.busy = true;
		let done = true;
		try {
			await what();
		} catch (error) {
			done = false;
			this.problem = words(error);
		}
		try {
			await this.#again();
		} catch (error) {
			this.problem ||= words(error);
		}
		this.busy = false;
		return done;
	}
}
