-- Passwords, as argon2id with their own parameters and salt.
CREATE TABLE passwords (
    user_id BIGINT PRIMARY KEY REFERENCES users (id),
    hash TEXT NOT NULL,
    changed_at BIGINT NOT NULL
);

-- Who a user is at an OpenID provider.
CREATE TABLE identities (
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id BIGINT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    PRIMARY KEY (issuer, subject)
);
CREATE INDEX identities_user ON identities (user_id);

-- Log-ins that failed or are under way, by address and by the hash of the name that was given, known or not.
CREATE TABLE login_attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    address TEXT NOT NULL,
    account TEXT NOT NULL,
    at BIGINT NOT NULL
);
CREATE INDEX login_attempts_address ON login_attempts (address, at);
CREATE INDEX login_attempts_account ON login_attempts (account, at);
CREATE INDEX login_attempts_at ON login_attempts (at);

-- Stands for the log-ins of its user that need no token of theirs; nobody has it.
ALTER TABLE tokens ADD COLUMN of_logins BIGINT NOT NULL DEFAULT 0;

-- Sessions can now be told apart by a person, and end when they are not used.
CREATE TABLE new_sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash TEXT NOT NULL UNIQUE,
    user_id BIGINT NOT NULL REFERENCES users (id),
    token_id BIGINT NOT NULL REFERENCES tokens (id),
    -- token, password or oidc.
    way TEXT NOT NULL,
    address TEXT NOT NULL,
    agent TEXT NOT NULL,
    -- What the provider gave at log-in, for log-out there.
    id_token TEXT,
    created_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
INSERT INTO new_sessions (hash, user_id, token_id, way, address, agent, created_at, seen_at, expires_at)
SELECT sessions.hash, tokens.user_id, tokens.id, 'token', '', '', sessions.created_at, sessions.created_at, sessions.expires_at
FROM sessions JOIN tokens ON tokens.id = sessions.token_id;
DROP TABLE sessions;
ALTER TABLE new_sessions RENAME TO sessions;
CREATE INDEX sessions_token ON sessions (token_id);
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);
