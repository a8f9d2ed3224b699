-- name: try_lock
-- Of the session: it goes with it, however it goes.
SELECT pg_try_advisory_lock(%(lock)s::bigint);

-- name: exists
SELECT to_regclass('sfm.migration') IS NOT NULL;

-- name: list_applied
SELECT number, name, sha256 FROM sfm.migration ORDER BY number;

-- name: take_your_time
-- A step takes as long as it needs. For a table that others use it waits no longer than they would: whoever comes after it waits too.
SELECT set_config('statement_timeout', '0', true);

-- name: record
INSERT INTO sfm.migration (number, name, sha256) VALUES (%(number)s, %(name)s, %(sha256)s);

-- name: has_outbox
SELECT to_regclass('sfm.outbox') IS NOT NULL;

-- name: is_behind
-- Whether there are events of transactions that this cluster has not come to: a dump of another was restored into it.
SELECT EXISTS (
  SELECT 1 FROM sfm.event, sfm.outbox
  WHERE event_id >= (base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint) << 16);

-- name: catch_up
-- New events come after those.
UPDATE sfm.outbox SET base = (SELECT MAX(event_id) >> 16 FROM sfm.event) + 1;
