// Where each row of a long list is, when most rows have never been drawn.

/** Heights of rows, measured or guessed, and the places that follow from them. */
export class Heights {
	private known = new Float32Array(256).fill(-1);
	private offsets = new Float64Array(257);
	/** Rows whose place is right. */
	private valid = 0;
	private measured = 0;
	private sum = 0;
	private guess = 48;
	length = 0;

	grow(length: number) {
		if (length > this.known.length) {
			const size = Math.max(length, this.known.length * 2);
			const [known, offsets] = [new Float32Array(size).fill(-1), new Float64Array(size + 1)];
			known.set(this.known);
			offsets.set(this.offsets);
			[this.known, this.offsets] = [known, offsets];
		}
		this.length = Math.max(this.length, length);
	}

	/** Takes a measured height. */
	set(index: number, height: number) {
		const before = this.known[index] ?? -1;
		if (Math.abs(before - height) < 0.1) return;
		if (before < 0) this.measured++;
		else this.sum -= before;
		this.sum += height;
		this.known[index] = height;
		this.valid = Math.min(this.valid, index);
	}

	has(index: number): boolean {
		return (this.known[index] ?? -1) >= 0;
	}

	/** Guesses the rows that were never drawn anew, from those that were. */
	learn() {
		if (this.measured < 20) return;
		const guess = Math.max(8, this.sum / this.measured);
		if (Math.abs(guess - this.guess) / this.guess < 0.1) return;
		this.guess = guess;
		this.valid = 0;
	}

	/** Where a row begins; of the row after the last, where the list ends. */
	offset(index: number): number {
		const wanted = Math.min(Math.max(index, 0), this.length);
		for (; this.valid < wanted; this.valid++) {
			const height = this.known[this.valid] ?? -1;
			this.offsets[this.valid + 1] = (this.offsets[this.valid] ?? 0) + (height < 0 ? this.guess : height);
		}
		return this.offsets[wanted] ?? 0;
	}

	/** The row at a place. */
	at(place: number): number {
		let [low, high] = [0, Math.max(0, this.length - 1)];
		this.offset(this.length);
		while (low < high) {
			const middle = (low + high) >> 1;
			if ((this.offsets[middle + 1] ?? 0) > place) high = middle;
			else low = middle + 1;
		}
		return low;
	}
}
