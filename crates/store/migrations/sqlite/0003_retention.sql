-- What was dropped of a run by age or size. A run that went on afterwards has newer entries again.
CREATE TABLE retention (
    run_id BIGINT PRIMARY KEY REFERENCES runs (id),
    outputs_dropped_at BIGINT,
    trace_dropped_at BIGINT
);
CREATE INDEX runs_ended ON runs (ended_at) WHERE phase = 'done';
