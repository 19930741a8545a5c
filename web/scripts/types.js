// Writes the types of the API's bodies, as docs/openapi.json has them, to src/lib/api-types.d.ts.
import { readFileSync, writeFileSync } from 'node:fs';

const read = (/** @type {string} */ path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const schemas = JSON.parse(read('../../docs/openapi.json')).components.schemas;

/** @param {any} schema @returns {string} */
function type(schema) {
	if (!schema || schema === true) return 'unknown';
	if (schema.$ref) return schema.$ref.split('/').pop();
	if (schema.const !== undefined) return JSON.stringify(schema.const);
	if (schema.enum) return schema.enum.map((/** @type {unknown} */ v) => JSON.stringify(v)).join(' | ');
	const several = schema.oneOf ?? schema.anyOf;
	if (several) return several.map(type).join(' | ');
	if (schema.allOf) return schema.allOf.map(type).join(' & ');
	const words = [].concat(schema.type ?? []);
	return words.map((word) => plain(word, schema)).join(' | ') || 'unknown';
}

/** @param {string} word @param {any} schema @returns {string} */
function plain(word, schema) {
	switch (word) {
		case 'integer':
		case 'number':
			return 'number';
		case 'array':
			return `(${type(schema.items)})[]`;
		case 'object':
			return schema.properties ? fields(schema) : `Record<string, ${type(schema.additionalProperties || true)}>`;
		default:
			return word;
	}
}

/** @param {any} schema */
function fields(schema) {
	const required = new Set(schema.required ?? []);
	const lines = Object.entries(schema.properties).map(
		([name, field]) => `\t${JSON.stringify(name)}${required.has(name) ? '' : '?'}: ${type(field)};`
	);
	return `{\n${lines.join('\n')}\n}`;
}

const names = Object.keys(schemas).filter((name) => /^\w+$/.test(name));
const text = names.map((name) => `export type ${name} = ${type(schemas[name])};`).join('\n');
const place = new URL('../src/lib/api-types.d.ts', import.meta.url);
writeFileSync(place, `// Made by scripts/types.js from docs/openapi.json.\n${text}\n`);
