-- Sessions of an agent on a person's own machine, which is what tells of them.
CREATE TABLE claude_sessions (
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    session_id TEXT NOT NULL,
    run_id BIGINT NOT NULL UNIQUE REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (org_id, session_id)
);
