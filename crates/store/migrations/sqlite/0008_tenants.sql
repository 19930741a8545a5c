-- Blank-separated words; NULL where the token may do everything that its user may.
ALTER TABLE tokens ADD COLUMN scopes TEXT;
-- The beginning, by which a person knows it again.
ALTER TABLE tokens ADD COLUMN hint TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN expires_at BIGINT;
-- To the minute.
ALTER TABLE tokens ADD COLUMN last_used_at BIGINT;
CREATE INDEX tokens_user ON tokens (user_id, id);

-- Of a service account, which is no person: the organization that it belongs to.
ALTER TABLE users ADD COLUMN service_org_id BIGINT REFERENCES orgs (id);
CREATE INDEX users_service ON users (service_org_id, id) WHERE service_org_id IS NOT NULL;

-- Links that make whoever opens them a member, once. Only the hash of a link is kept.
CREATE TABLE invitations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    hash TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    email TEXT,
    invited_by BIGINT NOT NULL REFERENCES users (id),
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX invitations_org ON invitations (org_id, id);
