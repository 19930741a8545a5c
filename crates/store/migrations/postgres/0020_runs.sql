-- Archived runs are kept, and left out of lists.
ALTER TABLE runs ADD COLUMN archived BIGINT NOT NULL DEFAULT 0;
-- JSON, a list of words; run_tags finds runs by them.
ALTER TABLE run_inputs ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';
-- JSON Schema of the run's structured result, and that result.
ALTER TABLE run_inputs ADD COLUMN output_schema TEXT;
ALTER TABLE run_inputs ADD COLUMN output TEXT;
CREATE TABLE run_tags (
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    run_id BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    PRIMARY KEY (org_id, tag, run_id)
);
CREATE INDEX run_tags_run ON run_tags (run_id);

DROP VIEW full_runs;
CREATE VIEW full_runs AS
SELECT runs.*, run_inputs.prompt, run_inputs.images, run_inputs.metadata, run_inputs.tags, run_inputs.output_schema,
       run_inputs.output
FROM runs JOIN run_inputs ON run_inputs.run_id = runs.id;

-- Pages are looked up in these alone, without the runs that are skipped.
DROP INDEX runs_org;
DROP INDEX runs_org_user;
DROP INDEX runs_org_repo;
DROP INDEX runs_org_source;
DROP INDEX runs_org_phase;
CREATE INDEX runs_org ON runs (org_id, archived, id);
CREATE INDEX runs_org_user ON runs (org_id, user_id, archived, id);
CREATE INDEX runs_org_repo ON runs (org_id, repo_id, archived, id);
CREATE INDEX runs_org_source ON runs (org_id, source_type, archived, id);
CREATE INDEX runs_org_phase ON runs (org_id, phase, reason, archived, id);
CREATE INDEX runs_org_created ON runs (org_id, archived, created_at);

-- How many runs that are not archived have ids from block * 4096 on, so that a page far down the list is found by adding up.
CREATE TABLE run_blocks (
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    block BIGINT NOT NULL,
    runs BIGINT NOT NULL,
    PRIMARY KEY (org_id, block)
);
INSERT INTO run_blocks (org_id, block, runs) SELECT org_id, id / 4096, COUNT(*) FROM runs GROUP BY 1, 2;

-- How far each run's log is in the search.
CREATE TABLE search_state (
    run_id BIGINT PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL
);
-- The words of entries of logs.
CREATE TABLE search (
    run_id BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    org_id BIGINT NOT NULL REFERENCES orgs (id) ON DELETE CASCADE,
    text TEXT NOT NULL,
    words TSVECTOR NOT NULL GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED,
    PRIMARY KEY (run_id, seq)
);
CREATE INDEX search_words ON search USING GIN (words);
