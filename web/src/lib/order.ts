// Places in a list that people put in order.

type Placed = { id: number; position: number };

/**
 * The places to change so that one moves up or down by one. A list may have several in one place, which go by their ids, so
 * more than two may have to move.
 */
export function moved(list: Placed[], id: number, by: 1 | -1): Placed[] {
	const from = list.findIndex((one) => one.id === id);
	const [one, other] = [list[from], list[from + by]];
	if (!one || !other) return [];
	const wanted = [...list];
	[wanted[from], wanted[from + by]] = [other, one];
	let last = Number.NEGATIVE_INFINITY;
	const places = list.map(({ position }) => (last = Math.max(position, last + 1)));
	return wanted
		.map(({ id, position }, index) => ({ id, was: position, position: places[index] ?? position }))
		.filter(({ was, position }) => was !== position)
		.map(({ id, position }) => ({ id, position }));
}
