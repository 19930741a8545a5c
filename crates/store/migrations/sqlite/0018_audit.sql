-- Who changed what. The names are those of then, and no key is foreign: what was changed may be gone.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    user_id BIGINT,
    user_name TEXT,
    token_id BIGINT,
    token_name TEXT,
    address TEXT,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    before TEXT,
    after TEXT
);
CREATE INDEX audit_org ON audit (org_id, id);
-- Append-only; the entries of an organization go when it has gone.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_is_not_shortened BEFORE DELETE ON audit
WHEN EXISTS (SELECT 1 FROM orgs WHERE id = OLD.org_id)
BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;

-- Nobody's any more; its rows are removed little by little.
ALTER TABLE orgs ADD COLUMN deleted_at BIGINT;
-- Kept for its runs, which name it.
ALTER TABLE repos ADD COLUMN deleted_at BIGINT;
