-- When an intent was done, by the database's clock, so that it can be pruned by age. NULL: long ago, or by the release
-- before.
ALTER TABLE intents ADD COLUMN done_at_ms bigint;
CREATE INDEX intents_done_by_age ON intents ((COALESCE(done_at_ms, 0))) WHERE code IS NOT NULL;

-- Numbers up to this one that are not among the intents are taken all the same: they were done and pruned.
ALTER TABLE legs ADD COLUMN intents_pruned bigint NOT NULL DEFAULT 0;
