-- How many lines of its transcript the session's machine has told by their number.
ALTER TABLE claude_sessions ADD COLUMN lines BIGINT NOT NULL DEFAULT 0;
