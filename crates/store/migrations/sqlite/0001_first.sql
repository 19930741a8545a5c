-- Flags are 0/1, times unix milliseconds, JSON is text.
CREATE TABLE orgs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    enable_pr_creation BIGINT NOT NULL DEFAULT 1,
    enable_rules_detection BIGINT NOT NULL DEFAULT 1,
    -- Grows with each claim of one of its runs; the organization with the lowest is next.
    claim_turn BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);
CREATE INDEX orgs_claim_turn ON orgs (claim_turn, id);

CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    github_user_id TEXT NOT NULL UNIQUE,
    github_username TEXT NOT NULL,
    email TEXT,
    full_name TEXT,
    avatar_url TEXT,
    created_at BIGINT NOT NULL
);

CREATE TABLE members (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    user_id BIGINT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX members_user ON members (user_id, org_id);

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id BIGINT NOT NULL REFERENCES users (id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL
);

CREATE TABLE repos (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    name TEXT NOT NULL,
    full_name TEXT NOT NULL,
    description TEXT,
    origin TEXT NOT NULL,
    default_branch TEXT,
    setup_status TEXT NOT NULL,
    setup_commands TEXT NOT NULL DEFAULT '',
    language TEXT,
    visibility TEXT,
    archived BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    UNIQUE (org_id, origin)
);

-- Written at each log entry, so it is kept small: what a run was asked is in run_inputs.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    user_id BIGINT NOT NULL REFERENCES users (id),
    repo_id BIGINT REFERENCES repos (id),
    model TEXT,
    agent_type TEXT,
    source_type TEXT NOT NULL,
    phase TEXT NOT NULL,
    reason TEXT,
    result TEXT,
    summary TEXT,
    error_cause TEXT,
    base_branch TEXT,
    base_commit TEXT,
    branch TEXT,
    sandbox_id TEXT,
    diff_stat TEXT,
    push BIGINT NOT NULL,
    open_pr BIGINT NOT NULL,
    stop_requested BIGINT NOT NULL DEFAULT 0,
    -- Grows with each claim and means nothing else; writes of an earlier one are refused.
    attempt BIGINT NOT NULL DEFAULT 0,
    -- Workers lost since the last progress.
    crashes BIGINT NOT NULL DEFAULT 0,
    worker_id TEXT,
    steps BIGINT NOT NULL DEFAULT 0,
    tokens_in BIGINT NOT NULL DEFAULT 0,
    tokens_out BIGINT NOT NULL DEFAULT 0,
    cost DOUBLE PRECISION NOT NULL DEFAULT 0,
    log_seq BIGINT NOT NULL DEFAULT 0,
    -- Seq of the newest user_message.
    message_seq BIGINT NOT NULL DEFAULT 0,
    contract_logs BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL,
    queued_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT
);
CREATE INDEX runs_org ON runs (org_id, id);
CREATE INDEX runs_org_user ON runs (org_id, user_id, id);
CREATE INDEX runs_queued ON runs (org_id, queued_at, id) WHERE phase = 'queued';
CREATE INDEX runs_phase ON runs (phase, worker_id);

CREATE TABLE run_inputs (
    run_id BIGINT PRIMARY KEY REFERENCES runs (id),
    prompt TEXT NOT NULL,
    images TEXT NOT NULL,
    metadata TEXT
);

CREATE VIEW full_runs AS
SELECT runs.*, run_inputs.prompt, run_inputs.images, run_inputs.metadata
FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id;

-- Totals of pages without counting rows.
CREATE TABLE run_counts (
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    user_id BIGINT NOT NULL REFERENCES users (id),
    source_type TEXT NOT NULL,
    runs BIGINT NOT NULL,
    PRIMARY KEY (org_id, user_id, source_type)
);

CREATE TABLE log (
    run_id BIGINT NOT NULL REFERENCES runs (id),
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    contract BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run_id, seq)
);
CREATE INDEX log_contract ON log (run_id, seq) WHERE contract = 1;

CREATE TABLE effects (
    run_id BIGINT NOT NULL REFERENCES runs (id),
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    intent TEXT NOT NULL,
    result TEXT,
    created_at BIGINT NOT NULL,
    settled_at BIGINT,
    PRIMARY KEY (run_id, key)
);

CREATE TABLE blobs (
    run_id BIGINT NOT NULL REFERENCES runs (id),
    name TEXT NOT NULL,
    chunk BIGINT NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (run_id, name, chunk)
);

CREATE TABLE pull_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    repo_id BIGINT NOT NULL REFERENCES repos (id),
    run_id BIGINT NOT NULL UNIQUE REFERENCES runs (id),
    number BIGINT NOT NULL,
    title TEXT NOT NULL,
    body TEXT NOT NULL,
    url TEXT NOT NULL,
    head_branch TEXT NOT NULL,
    base_branch TEXT NOT NULL,
    head_commit TEXT NOT NULL,
    state TEXT NOT NULL,
    forge TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (repo_id, forge, number)
);
