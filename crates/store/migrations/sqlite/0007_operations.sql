-- What to do about failing checks of a repository's pull requests. Lists and maps are JSON.
CREATE TABLE check_suite_settings (
    repo_id BIGINT PRIMARY KEY REFERENCES repos (id) ON DELETE CASCADE,
    check_retry_count BIGINT NOT NULL,
    ignored_checks TEXT NOT NULL,
    check_retry_counts TEXT NOT NULL,
    custom_prompts TEXT NOT NULL,
    high_priority_apps TEXT NOT NULL
);

-- Runs whose pull request starts no runs any more when its checks fail. A pull request belongs to the run that opened it,
-- so the mark also holds for one that the run opens later.
CREATE TABLE check_bans (
    run_id BIGINT PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL
);

-- Runs that work on the pull request of another run: for its failed checks.
CREATE TABLE check_runs (
    run_id BIGINT PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    opener_id BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE
);
CREATE INDEX check_runs_opener ON check_runs (opener_id);

-- Accounts of users elsewhere that runs may use.
CREATE TABLE oauth_tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    active BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX oauth_tokens_org ON oauth_tokens (org_id, user_id, provider);

-- Words that a user sends to a bot to say who they are; kept as hashes, good once and not for long.
CREATE TABLE connect_tokens (
    hash TEXT PRIMARY KEY,
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);
CREATE INDEX connect_tokens_expiry ON connect_tokens (expires_at);
