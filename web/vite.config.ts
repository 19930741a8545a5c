import { sveltekit } from '@sveltejs/kit/vite';
import { defineConfig } from 'vitest/config';

export default defineConfig({
	plugins: [sveltekit()],
	build: { target: 'es2022', assetsInlineLimit: 0 },
	server: { proxy: { '/v1': process.env.CODEGEN_URL ?? 'http://127.0.0.1:8080' } },
	test: { include: ['src/**/*.test.ts'] }
});
