// Words about models and who answers for them.

import type { ModelChoice } from './api-types';

/** Providers that are known by name, as docs/models.md has them. */
export const PROVIDERS: [string, string][] = [
	['anthropic', 'Anthropic'],
	['openai', 'OpenAI'],
	['gemini', 'Google Gemini'],
	['xai', 'xAI'],
	['openrouter', 'OpenRouter'],
	['ollama', 'Ollama']
];

export const providerName = (name: string) => PROVIDERS.find(([known]) => known === name)?.[1] ?? name;

/** Models by who answers for them, in the order in which they come. */
export function byProvider(models: ModelChoice[]): { provider: string; account: string; names: string[] }[] {
	const groups = new Map<string, { provider: string; account: string; names: string[] }>();
	for (const { name, provider, account } of models) {
		const key = `${account} ${provider}`;
		const group = groups.get(key) ?? { provider, account, names: [] };
		group.names.push(name);
		groups.set(key, group);
	}
	return [...groups.values()];
}
