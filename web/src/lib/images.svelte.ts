// Images that a person gives along with words.

export type Image = { name: string; uri: string };

/** What models take. */
export const IMAGE_TYPES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];

export class Images {
	all: Image[] = $state([]);
	/** What was not taken, in words. */
	problem = $state('');

	/** Takes those of the files that are images; says whether there was one. */
	take(files: Iterable<File>): boolean {
		this.problem = '';
		let any = false;
		for (const file of files) {
			if (!IMAGE_TYPES.includes(file.type)) {
				this.problem = `${file.name} is not a PNG, JPEG, GIF or WebP image.`;
				continue;
			}
			any = true;
			const reader = new FileReader();
			reader.onload = () => this.all.push({ name: file.name, uri: String(reader.result) });
			reader.onerror = () => (this.problem = `${file.name} could not be read.`);
			reader.readAsDataURL(file);
		}
		return any;
	}

	/** Takes what is pasted, unless it is words. */
	paste(event: ClipboardEvent) {
		const files = event.clipboardData?.files ?? [];
		if (files.length && this.take(files)) event.preventDefault();
	}

	drop(event: DragEvent) {
		const files = event.dataTransfer?.files ?? [];
		if (!files.length) return;
		event.preventDefault();
		this.take(files);
	}

	get uris(): string[] {
		return this.all.map(({ uri }) => uri);
	}
}
