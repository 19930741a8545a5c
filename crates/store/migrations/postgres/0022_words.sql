-- Words are taken from texts by codegen, without case and accents, as SQLite's search does. Logs are taken in anew.
ALTER TABLE search ALTER COLUMN words DROP EXPRESSION;
DELETE FROM search;
DELETE FROM search_state;
