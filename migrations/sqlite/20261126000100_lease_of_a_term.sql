-- Whose lease it is, so that a late renewal or release of an older term changes nothing: 0 (or another epoch than the
-- term's) is nobody's.
ALTER TABLE lease ADD COLUMN epoch integer NOT NULL DEFAULT 0;
-- How long it was asked for: more left than that means that the clock was set back.
ALTER TABLE lease ADD COLUMN lasts_ms integer NOT NULL DEFAULT 0;
