-- One default of the organization takes the place of one for each provider.
ALTER TABLE model_providers DROP COLUMN default_model;
-- Which API it speaks: anthropic or openai.
ALTER TABLE model_providers ADD COLUMN api TEXT NOT NULL DEFAULT 'openai';
-- The end of the key, by which people tell keys apart; none where there is no key.
ALTER TABLE model_providers ADD COLUMN key_hint TEXT;
-- When it last answered a test.
ALTER TABLE model_providers ADD COLUMN tested_at BIGINT;
-- Model of runs that name none, as provider/name.
ALTER TABLE orgs ADD COLUMN default_model TEXT;
