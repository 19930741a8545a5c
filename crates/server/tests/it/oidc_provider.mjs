// An OpenID provider for tests: `oidc_provider.mjs FOLDER-OF-NODE-MODULES PORT CALLBACK LOGGED-OUT`.
// The log-in name says who somebody is: `ann+devs+ops` is ann in two groups; `ann.other.org` has an address there,
// `ann!` one that nobody has verified. A request to /late turns the provider's clock two minutes on, one to /nonce makes nonces wrong.
import { createRequire } from 'node:module';

const [folder, port, callback, loggedOut] = process.argv.slice(2);
const { default: Provider } = await import(createRequire(`${folder}/`).resolve('oidc-provider'));
let wrongNonce = false;
const now = Date.now;

const provider = new Provider(`http://127.0.0.1:${port}`, {
	clients: [
		{
			client_id: 'codegen',
			client_secret: 'a secret of the client',
			redirect_uris: [callback],
			post_logout_redirect_uris: [loggedOut],
			grant_types: ['authorization_code'],
			response_types: ['code']
		}
	],
	features: { revocation: { enabled: true } },
	pkce: { required: () => true },
	claims: { openid: ['sub'], profile: ['name', 'preferred_username', 'groups'], email: ['email', 'email_verified'] },
	ttl: { AuthorizationCode: 60, Grant: 3600, Session: 3600, Interaction: 3600, AccessToken: 3600, IdToken: 3600 },
	async findAccount(_, id) {
		const [name, ...groups] = id.split('+');
		const domain = name.includes('.') ? name.slice(name.indexOf('.') + 1) : 'example.com';
		const claims = {
			sub: name,
			name: name.toUpperCase(),
			preferred_username: name,
			groups,
			email: `${name}@${domain}`,
			email_verified: !name.endsWith('!')
		};
		return { accountId: id, claims: async () => ({ ...claims, sub: id }) };
	}
});
provider.use(async (ctx, next) => {
	if (ctx.path === '/late') Date.now = () => now() + 120_000;
	if (ctx.path === '/nonce') wrongNonce = true;
	if (['/late', '/nonce'].includes(ctx.path)) return void (ctx.body = 'ok');
	if (wrongNonce && ctx.path === '/auth') ctx.query = { ...ctx.query, nonce: 'of-another-log-in' };
	await next();
});
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
