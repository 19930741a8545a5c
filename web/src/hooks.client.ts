import { Refused } from '$lib/api';
import type { HandleClientError } from '@sveltejs/kit';

/** What a page says about an error: the server's own sentence where there is one. */
export const handleError: HandleClientError = ({ error, message, status }) => {
	if (error instanceof Refused) return { message: error.message };
	if (status === 404) return { message: 'There is no such page.' };
	console.error(error);
	return { message };
};
