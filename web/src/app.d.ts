declare global {
	interface Window {
		/** Requests that the page's first script has begun, by path. */
		early?: Record<string, Promise<Response>>;
	}
}

export {};
