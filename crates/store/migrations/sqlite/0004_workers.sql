-- Who works on runs. A worker whose row is gone was taken for dead, and its runs are another's.
CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    -- Where other processes reach the sandboxes of its runs.
    url TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    renewed_at BIGINT NOT NULL
);
