import { api } from '$lib/api';
import type { PageLoad } from './$types';

export const load: PageLoad = async () => {
	// A server that does not answer says so at the log-in itself.
	const ways = await api.ways().catch(() => ({ token: true, password: false, oidc: undefined }));
	return { ways };
};
