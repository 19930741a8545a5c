-- Log-ins of the web app, of which only the hash is kept. A token that is taken away ends its sessions with it.
CREATE TABLE sessions (
    hash TEXT PRIMARY KEY,
    token_id BIGINT NOT NULL REFERENCES tokens (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sessions_token ON sessions (token_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- The list of runs by what it can be filtered with, newest first.
CREATE INDEX runs_org_phase ON runs (org_id, phase, reason, id);
CREATE INDEX runs_org_repo ON runs (org_id, repo_id, id);
CREATE INDEX runs_org_source ON runs (org_id, source_type, id);

-- The stages of a long run without reading its log.
CREATE INDEX log_stages ON log (run_id, seq) WHERE kind = 'stage';
