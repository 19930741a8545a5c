-- Answers to requests with an Idempotency-Key, kept for a day.
CREATE TABLE idempotency_keys (
    token_id BIGINT NOT NULL REFERENCES tokens (id),
    path TEXT NOT NULL,
    key TEXT NOT NULL,
    -- Of the request's body.
    body_hash TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (token_id, path, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);

-- message_seq when the run was last asked to stop: a message that came later is meant for after the stop.
ALTER TABLE runs ADD COLUMN stop_seq BIGINT NOT NULL DEFAULT 0;
DROP VIEW full_runs;
CREATE VIEW full_runs AS
SELECT runs.*, run_inputs.prompt, run_inputs.images, run_inputs.metadata
FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id;
