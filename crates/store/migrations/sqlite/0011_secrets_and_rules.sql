-- What is encrypted, by the place that it belongs to; the key is kept elsewhere.
CREATE TABLE secrets (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    table_name TEXT NOT NULL,
    row_id BIGINT NOT NULL,
    column_name TEXT NOT NULL,
    ciphertext TEXT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (org_id, table_name, row_id, column_name)
);

-- What people want agents to keep to: of the organization, of a repository (repo_id) or of one user (user_id).
CREATE TABLE rules (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    repo_id BIGINT REFERENCES repos (id),
    user_id BIGINT REFERENCES users (id),
    text TEXT NOT NULL,
    position BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX rules_of ON rules (org_id, repo_id, user_id, position, id);
