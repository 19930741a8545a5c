-- What an organization may use; NULL sets no limit.
CREATE TABLE org_limits (
    org_id BIGINT PRIMARY KEY REFERENCES orgs (id) ON DELETE CASCADE,
    runs_per_month BIGINT,
    -- US dollars.
    cost_per_month DOUBLE PRECISION,
    concurrent_runs BIGINT,
    concurrent_runs_per_user BIGINT,
    -- JSON: requests and seconds by kind, where they are other than the server's.
    rate_limits TEXT NOT NULL DEFAULT '{}'
);

-- What an organization has used in a month (as 2026-11, UTC). Deleting runs gives nothing back.
CREATE TABLE org_usage (
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    month TEXT NOT NULL,
    runs BIGINT NOT NULL,
    cost DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (org_id, month)
);
INSERT INTO org_usage (org_id, month, runs, cost)
SELECT org_id, to_char(to_timestamp(created_at / 1000) AT TIME ZONE 'UTC', 'YYYY-MM'), COUNT(*), SUM(cost) FROM runs GROUP BY 1, 2;

-- Requests of a token in its window of time. Servers take blocks of them, so that a request is seldom a write.
CREATE TABLE rate_windows (
    token_id BIGINT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    -- Kind and size.
    bucket TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    taken BIGINT NOT NULL,
    -- What the last server that asked was given.
    granted BIGINT NOT NULL,
    PRIMARY KEY (token_id, bucket)
);

-- When a user's run was last claimed, counted as orgs.claim_turn is; the user with the lowest is next.
CREATE TABLE user_turns (
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    turn BIGINT NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
DROP INDEX runs_queued;
CREATE INDEX runs_queued ON runs (org_id, user_id, queued_at, id) WHERE phase = 'queued';
-- In place of one over all phases, which a search for queued runs would take and then sort.
DROP INDEX runs_phase;
CREATE INDEX runs_live ON runs (org_id, user_id, phase) WHERE phase IN ('preparing', 'running', 'waiting', 'finishing');
