import adapter from '@sveltejs/adapter-static';

/** @type {import('@sveltejs/kit').Config} */
export default {
	kit: {
		// Packed files are made here once, so that the server packs nothing.
		adapter: adapter({ fallback: 'index.html', precompress: true }),
		// One script and one style sheet: over a slow line, files that ask for files cost more than bytes.
		output: { bundleStrategy: 'single' },
		version: { pollInterval: 0 }
	}
};
