-- Where an organization wants to be told of what happens.
CREATE TABLE webhook_endpoints (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    url TEXT NOT NULL,
    description TEXT NOT NULL,
    -- Separated by blanks, with a blank at both ends; empty for every event.
    events TEXT NOT NULL,
    enabled BIGINT NOT NULL DEFAULT 1,
    -- A sentence, where codegen itself turned it off.
    disabled_reason TEXT,
    -- Tries in a row that failed, and since when.
    failures BIGINT NOT NULL DEFAULT 0,
    failing_since BIGINT,
    -- Until when the secret before the last rotation is signed with, too.
    previous_until BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX webhook_endpoints_org ON webhook_endpoints (org_id, id);

-- One event for one endpoint, written in the transaction of the event.
CREATE TABLE webhook_deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    endpoint_id BIGINT NOT NULL REFERENCES webhook_endpoints (id),
    -- The same at each try and for each endpoint.
    message_id TEXT NOT NULL,
    event TEXT NOT NULL,
    run_id BIGINT,
    -- JSON.
    data TEXT NOT NULL,
    -- pending, delivered, failed.
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    -- When it is due; who has it, and until when.
    next_try_at BIGINT NOT NULL,
    claimed_by TEXT,
    claimed_until BIGINT,
    -- The last try.
    tried_at BIGINT,
    duration_ms BIGINT,
    status BIGINT,
    answer TEXT,
    error TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, next_try_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_list ON webhook_deliveries (org_id, endpoint_id, id);
CREATE INDEX webhook_deliveries_age ON webhook_deliveries (created_at);

-- A provider of models that an organization has its own account with; the key is in `secrets`.
CREATE TABLE model_providers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    org_id BIGINT NOT NULL REFERENCES orgs (id),
    provider TEXT NOT NULL,
    base_url TEXT,
    default_model TEXT,
    -- JSON: names without the provider; an empty list for all.
    allowed_models TEXT NOT NULL,
    -- JSON: name without the provider -> US dollars per million tokens.
    prices TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    UNIQUE (org_id, provider)
);
