// The server, as pages talk to it.

import type {
	AgentRunResponse,
	AuditEntries,
	BranchesResponse,
	DeliveryResponse,
	FoundRuns,
	InvitationResponse,
	JoinedResponse,
	LimitsInput,
	LimitsResponse,
	LoggedOut,
	LogInSession,
	LogInWays,
	ModelProviderChange,
	ModelProviderInput,
	ModelProviderResponse,
	ModelProviderTest,
	NewInvitationResponse,
	NewTokenResponse,
	OAuthProviderResponse,
	OrganizationChangeInput,
	OrganizationIntegrationsResponse,
	OrganizationModels,
	OrganizationResponse,
	PullRequestResponse,
	RepoResponse,
	RevokedResponse,
	RuleResponse,
	RunScreen,
	RunView,
	RunViews,
	ServiceAccountResponse,
	SessionResponse,
	TokenResponse,
	TraceEntries,
	UserResponse,
	WebhookResponse,
	WelcomeResponse
} from './api-types';

/** A refusal, in the server's words. */
export class Refused extends Error {
	constructor(
		readonly status: number,
		message: string,
		/** Seconds until it is worth another try, where the server says so. */
		readonly wait?: number
	) {
		super(message);
	}
}

function sentence(body: unknown, status: number): string {
	const { message, detail } = (body ?? {}) as { message?: string; detail?: unknown };
	if (message) return message;
	if (Array.isArray(detail)) {
		const one = (f: { loc: (string | number)[]; msg: string }) =>
			`${f.loc.slice(1).join('.')}: ${f.msg.replace(/^Value error, /, '')}`;
		return detail.map(one).join('; ');
	}
	return `The server answered with status ${status}.`;
}

async function call<T>(
	method: string,
	path: string,
	body?: unknown,
	more: Record<string, string> = {},
	signal?: AbortSignal
): Promise<T> {
	const headers: Record<string, string> = { accept: 'application/json', ...more };
	if (body !== undefined) headers['content-type'] = 'application/json';
	let response: Response;
	try {
		const early = method === 'GET' ? window.early?.[path] : undefined;
		if (early) delete window.early?.[path];
		response = await (early ?? fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) }));
	} catch {
		throw new Refused(0, 'The server cannot be reached.');
	}
	if (response.status === 204) return undefined as T;
	const answer: unknown = await response.json().catch(() => undefined);
	if (response.status === 401 && path !== '/v1/session') throw new Refused(401, 'Your log-in has ended: log in again.');
	if (!response.ok) {
		const wait = Number(response.headers.get('retry-after')) || undefined;
		throw new Refused(response.status, sentence(answer, response.status), wait);
	}
	return answer as T;
}

/** Keys of requests whose answers never came, by what was asked: asked again, they are the same request. */
const unanswered = new Map<string, string>();

function newKey(): string {
	// randomUUID is not there over plain HTTP.
	return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** POSTs what must have its effect once, also where an answer is lost and the request is sent again. */
async function once<T>(path: string, body: unknown): Promise<T> {
	const what = path + JSON.stringify(body);
	const key = unanswered.get(what) ?? newKey();
	unanswered.set(what, key);
	for (let tries = 1; ; tries++) {
		try {
			const answer = await call<T>('POST', path, body, { 'idempotency-key': key });
			unanswered.delete(what);
			return answer;
		} catch (error) {
			// 409: the first of them is still being answered.
			const lost = error instanceof Refused && [0, 409, 502, 503, 504].includes(error.status);
			if (!lost) unanswered.delete(what);
			if (!lost || tries === 3) throw error;
			await new Promise((resolve) => setTimeout(resolve, 400 * tries));
		}
	}
}

const get = <T>(path: string, signal?: AbortSignal) => call<T>('GET', path, undefined, {}, signal);
const org = (id: number) => `/v1/organizations/${id}`;
const run = (of: { organization_id: number; id: number }) => `${org(of.organization_id)}/agent/run/${of.id}`;
/** A service account, whose tokens are meant; one's own without. */
export type OfAccount = { org: number; account: number };
const tokensOf = (of?: OfAccount) => (of ? `${org(of.org)}/service-accounts/${of.account}/tokens` : '/v1/tokens');
type Items<T> = { items: T[]; total: number };

export type Filter = { status?: string; repo_id?: string; user_id?: string; source_type?: string; tag?: string; archived?: string; text?: string };
export type NewRun = {
	prompt: string;
	repo_id?: number;
	base_branch?: string;
	model?: string;
	images?: string[];
};
type Of = { organization_id: number; id: number };
/** Which list of rules: the organization's, one's own, or that of a repository. */
export type RuleList = 'rules' | 'my-rules' | `repos/${number}/rules`;
export type RuleChange = { text?: string; position?: number; enabled?: boolean };
export type WebhookChange = { url?: string; description?: string; events?: string[]; enabled?: boolean };
export type AuditFilter = { user_id?: string; action?: string; target?: string };

function query(values: Record<string, string | number | undefined>): string {
	const pairs = Object.entries(values).filter(([, value]) => value !== undefined && value !== '');
	return pairs.length ? '?' + new URLSearchParams(pairs.map(([key, value]) => [key, String(value)])) : '';
}

export const api = {
	session: () => get<SessionResponse>('/v1/session'),
	ways: () => get<LogInWays>('/v1/session/ways'),
	logIn: (by: { token: string } | { name: string; password: string }) => call<SessionResponse>('POST', '/v1/session', by),
	logOut: () => call<LoggedOut | undefined>('DELETE', '/v1/session'),
	logins: () => get<Items<LogInSession>>('/v1/users/me/sessions'),
	endLogin: (id: number) => call<void>('DELETE', `/v1/users/me/sessions/${id}`),
	endOtherLogins: () => call<{ ended: number }>('DELETE', '/v1/users/me/sessions'),
	changePassword: (current_password: string, password: string) =>
		call<SessionResponse>('PUT', '/v1/users/me/password', { current_password, password }),
	tokens: (of?: OfAccount) => get<Items<TokenResponse>>(tokensOf(of)),
	createToken: (of: OfAccount | undefined, name: string, scopes: string[], expires_in_days?: number) =>
		call<NewTokenResponse>('POST', tokensOf(of), { name, scopes, expires_in_days }),
	revokeToken: (of: OfAccount | undefined, id: number) => call<void>('DELETE', `${tokensOf(of)}/${id}`),
	changeRole: (orgId: number, id: number, role: string) => call<UserResponse>('PATCH', `${org(orgId)}/users/${id}`, { role }),
	removeMember: (orgId: number, id: number) => call<void>('DELETE', `${org(orgId)}/users/${id}`),
	organization: (id: number) => get<OrganizationResponse>(org(id)),
	changeOrganization: (id: number, change: OrganizationChangeInput) => call<OrganizationResponse>('PATCH', org(id), change),
	invitations: (orgId: number) => get<Items<InvitationResponse>>(`${org(orgId)}/invitations`),
	invite: (orgId: number, role: string, email?: string) =>
		call<NewInvitationResponse>('POST', `${org(orgId)}/invitations`, { role, email }),
	withdraw: (orgId: number, id: number) => call<void>('DELETE', `${org(orgId)}/invitations/${id}`),
	accept: (invitation: string) => call<JoinedResponse>('POST', '/v1/invitations/accept', { invitation }),
	join: (invitation: string, name: string, email?: string) =>
		call<WelcomeResponse>('POST', '/v1/invitations/join', { invitation, name, email }),
	models: (orgId: number) => get<OrganizationModels>(`${org(orgId)}/models`),
	setDefaultModel: (orgId: number, model: string | null) => call<OrganizationModels>('PUT', `${org(orgId)}/default-model`, { model }),
	modelProviders: (orgId: number) => get<Items<ModelProviderResponse>>(`${org(orgId)}/model-providers`),
	addModelProvider: (orgId: number, provider: ModelProviderInput) =>
		call<ModelProviderResponse>('POST', `${org(orgId)}/model-providers`, provider),
	changeModelProvider: (orgId: number, id: number, change: ModelProviderChange) =>
		call<ModelProviderResponse>('PATCH', `${org(orgId)}/model-providers/${id}`, change),
	removeModelProvider: (orgId: number, id: number) => call<ModelProviderResponse>('DELETE', `${org(orgId)}/model-providers/${id}`),
	testModelProvider: (orgId: number, id: number) =>
		call<ModelProviderTest>('POST', `${org(orgId)}/model-providers/${id}/test`),
	integrations: (orgId: number) => get<OrganizationIntegrationsResponse>(`${org(orgId)}/integrations`),
	oauthProviders: () => get<OAuthProviderResponse[]>('/v1/mcp-providers'),
	connections: (orgId: number) => get<string[]>(`/v1/oauth/tokens/status${query({ org_id: orgId })}`),
	connectPath: (orgId: number, provider: string) => `/v1/oauth/connect${query({ org_id: orgId, provider, next: '/connections' })}`,
	disconnect: (orgId: number, provider: string) =>
		call<RevokedResponse>('POST', `/v1/oauth/tokens/revoke${query({ org_id: orgId, provider })}`),
	limits: (orgId: number) => get<LimitsResponse>(`${org(orgId)}/limits`),
	setLimits: (orgId: number, limits: LimitsInput) => call<LimitsResponse>('PUT', `${org(orgId)}/limits`, limits),
	serviceAccounts: (orgId: number) => get<Items<ServiceAccountResponse>>(`${org(orgId)}/service-accounts`),
	addServiceAccount: (orgId: number, name: string, role: string) =>
		call<ServiceAccountResponse>('POST', `${org(orgId)}/service-accounts`, { name, role }),
	removeServiceAccount: (orgId: number, id: number) => call<void>('DELETE', `${org(orgId)}/service-accounts/${id}`),
	exportPath: (orgId: number) => `${org(orgId)}/export`,
	deleteOrganization: (orgId: number, name: string) => call<void>('DELETE', `${org(orgId)}${query({ name })}`),
	screen: (id: string | number) => get<RunScreen>(`/v1/runs/${id}`),
	runs: (orgId: number, filter: Filter, before?: number, signal?: AbortSignal) =>
		get<RunViews>(`${org(orgId)}/agent/runs/views${query({ ...filter, before })}`, signal),
	search: (orgId: number, text: string, before?: number, signal?: AbortSignal) =>
		get<FoundRuns>(`${org(orgId)}/agent/runs/search${query({ text, before, limit: 50 })}`, signal),
	changes: (orgId: number) => `${org(orgId)}/agent/runs/changes`,
	view: (of: Of) => get<RunView>(`${run(of)}/view`),
	entries: (of: Of, before: number, limit: number) =>
		get<TraceEntries>(`${run(of)}/entries${query({ before, limit })}`),
	outputPath: (of: Of, seq: number) => `${run(of)}/entries/${seq}/output`,
	async output(of: Of, seq: number): Promise<string> {
		const response = await fetch(this.outputPath(of, seq));
		if (!response.ok) throw new Refused(response.status, sentence(await response.json().catch(() => 0), response.status));
		return response.text();
	},
	find: (of: Of, text: string) => get<{ seqs: number[] }>(`${run(of)}/matches${query({ text })}`),
	events: (of: Of) => `${run(of)}/events`,
	diff: (of: Of) => get<{ diff: string; stat: string }>(`${run(of)}/diff`),
	create: (orgId: number, body: NewRun) => once<AgentRunResponse>(`${org(orgId)}/agent/run`, body),
	resume: (of: Of, prompt: string, images: string[] = []) =>
		once<AgentRunResponse>(`${org(of.organization_id)}/agent/run/resume`, { agent_run_id: of.id, prompt, images }),
	stop: (of: Of) => once<AgentRunResponse>(`${org(of.organization_id)}/agent/run/stop`, { agent_run_id: of.id }),
	editRun: (of: Of, change: { tags?: string[]; archived?: boolean }) => call<AgentRunResponse>('PATCH', run(of), change),
	removeRun: (of: Of) => call<void>('DELETE', run(of)),
	repos: (orgId: number) => get<Items<RepoResponse>>(`${org(orgId)}/repos`),
	addRepo: (orgId: number, url: string) => call<RepoResponse>('POST', `${org(orgId)}/repos`, { url }),
	removeRepo: (orgId: number, id: number) => call<void>('DELETE', `${org(orgId)}/repos/${id}`),
	branches: (orgId: number, id: number) => get<BranchesResponse>(`${org(orgId)}/repos/${id}/branches`),
	setup: (orgId: number, id: number) => get<{ setup_commands: string }>(`${org(orgId)}/repos/${id}/setup-commands`),
	putSetup: (orgId: number, id: number, setup_commands: string) =>
		call<{ setup_commands: string }>('PUT', `${org(orgId)}/repos/${id}/setup-commands`, { setup_commands }),
	rules: (orgId: number, list: RuleList) => get<Items<RuleResponse>>(`${org(orgId)}/${list}`),
	addRule: (orgId: number, list: RuleList, text: string) => call<RuleResponse>('POST', `${org(orgId)}/${list}`, { text }),
	changeRule: (orgId: number, list: RuleList, id: number, change: RuleChange) =>
		call<RuleResponse>('PATCH', `${org(orgId)}/${list}/${id}`, change),
	removeRule: (orgId: number, list: RuleList, id: number) => call<RuleResponse>('DELETE', `${org(orgId)}/${list}/${id}`),
	webhooks: (orgId: number) => get<Items<WebhookResponse>>(`${org(orgId)}/webhooks`),
	webhook: (orgId: number, id: string | number) => get<WebhookResponse>(`${org(orgId)}/webhooks/${id}`),
	addWebhook: (orgId: number, webhook: WebhookChange) => call<WebhookResponse>('POST', `${org(orgId)}/webhooks`, webhook),
	changeWebhook: (orgId: number, id: number, change: WebhookChange) =>
		call<WebhookResponse>('PATCH', `${org(orgId)}/webhooks/${id}`, change),
	removeWebhook: (orgId: number, id: number) => call<WebhookResponse>('DELETE', `${org(orgId)}/webhooks/${id}`),
	ping: (orgId: number, id: number) => call<DeliveryResponse>('POST', `${org(orgId)}/webhooks/${id}/ping`),
	rotate: (orgId: number, id: number, overlap_hours: number) =>
		call<WebhookResponse>('POST', `${org(orgId)}/webhooks/${id}/rotate`, { overlap_hours }),
	deliveries: (orgId: number, id: string | number, state: string, limit: number) =>
		get<Items<DeliveryResponse>>(`${org(orgId)}/webhooks/${id}/deliveries${query({ state, limit })}`),
	replay: (orgId: number, webhook: number, id: number) =>
		call<DeliveryResponse>('POST', `${org(orgId)}/webhooks/${webhook}/deliveries/${id}/replay`),
	audit: (orgId: number, filter: AuditFilter, before?: number) =>
		get<AuditEntries>(`${org(orgId)}/audit-log${query({ ...filter, before })}`),
	auditExport: (orgId: number, filter: AuditFilter) => `${org(orgId)}/audit-log/export${query(filter)}`,
	users: (orgId: number) => get<Items<UserResponse>>(`${org(orgId)}/users`),
	pull: (orgId: number, id: string) => get<PullRequestResponse>(`${org(orgId)}/prs/${id}`)
};

/** What went wrong, as a sentence for the person. */
export const words = (error: unknown) => (error instanceof Error ? error.message : String(error));
