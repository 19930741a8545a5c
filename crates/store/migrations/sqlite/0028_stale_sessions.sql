-- When the session's machine was last heard of.
ALTER TABLE claude_sessions ADD COLUMN heard_at BIGINT NOT NULL DEFAULT 0;
UPDATE claude_sessions SET heard_at =
    COALESCE((SELECT MAX(log.created_at) FROM log WHERE log.run_id = claude_sessions.run_id), 0);
