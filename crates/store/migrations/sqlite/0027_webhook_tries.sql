-- JSON, a list: what came of each try, oldest first.
ALTER TABLE webhook_deliveries ADD COLUMN tries TEXT NOT NULL DEFAULT '[]';
