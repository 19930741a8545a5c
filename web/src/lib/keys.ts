// Keyboard: pages say which keys they take; keys that are typed into a field are not taken.

type Keys = Record<string, () => void>;
const taken: Keys[] = [];

/** Takes these keys until the returned function is called. */
export function keys(mine: Keys): () => void {
	taken.unshift(mine);
	return () => taken.splice(taken.indexOf(mine), 1);
}

export function press(event: KeyboardEvent) {
	if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
	const target = event.target instanceof HTMLElement ? event.target : undefined;
	if (target?.closest('input, textarea, select, [contenteditable]')) {
		if (event.key !== 'Escape' || target.closest('dialog')) return;
		// A browser would empty the field, and with it the results that the person goes to.
		event.preventDefault();
		target.blur();
		return;
	}
	if (target?.closest('dialog[open]')) return;
	// Enter on a link or button is theirs.
	if (event.key === 'Enter' && target?.closest('a, button, summary')) return;
	const action = taken.find((mine) => event.key in mine)?.[event.key];
	if (!action) return;
	event.preventDefault();
	action();
}

export const KEYS: [string, string][] = [
	['j / k', 'Next and previous run, or entry of a trace'],
	['Enter', 'Open the run; unfold or fold the entry'],
	['x', 'Choose the run, to tag, archive or delete it'],
	['/', 'Find in runs, or in this page'],
	['n / N', 'Next and previous match in a trace'],
	['g / G', 'First and last entry of a trace'],
	['t / d', 'Trace, changes'],
	['f', 'Write a follow-up'],
	['c', 'Start a new run'],
	['h', 'All runs'],
	['Esc', 'Leave a field; show all runs again'],
	['?', 'These keys']
];
