-- How far events were sent, and to whom. The events themselves: list_events in reads.sql, delete_events in housekeeping.sql.

-- name: tail
-- As list_events, of one tenant. One row at least: up to where this is all.
SELECT h.below - 1, e.* FROM (
  SELECT ((SELECT base FROM sfm.outbox) + pg_snapshot_xmin(pg_current_snapshot())::text::bigint) << 16 AS below) h
LEFT JOIN LATERAL (
  SELECT event_id, tenant, namespace, topic, version, time_us, payload FROM sfm.event
  WHERE event_id > %(after)s::bigint AND event_id < h.below AND tenant = %(tenant)s::text
    AND (%(namespace)s::text = '' OR namespace = %(namespace)s::text)
    AND (cardinality(%(topics)s::text[]) = 0 OR topic = ANY(%(topics)s::text[]))
  ORDER BY event_id LIMIT %(limit)s::bigint) e ON true;

-- name: keep
INSERT INTO sfm.event_sink (name, event_id, owner, until_us, seen_us, dropped)
VALUES (%(sink)s::text, 0, '', 0, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, 0)
ON CONFLICT (name) DO UPDATE SET seen_us = excluded.seen_us;

-- name: waits
SELECT EXISTS (
  SELECT 1 FROM sfm.event
  WHERE event_id > (SELECT event_id FROM sfm.event_sink WHERE name = %(sink)s::text)
    AND event_id < ((SELECT base FROM sfm.outbox) + pg_snapshot_xmin(pg_current_snapshot())::text::bigint) << 16);

-- name: backlog
SELECT (SELECT count(*) FROM sfm.event e WHERE e.event_id > s.event_id),
  COALESCE((SELECT e.time_us FROM sfm.event e WHERE e.event_id > s.event_id ORDER BY e.event_id LIMIT 1), 0), s.dropped
FROM sfm.event_sink s WHERE s.name = %(sink)s::text;

-- name: take
-- By the database's clock: all who take turns have the same.
UPDATE sfm.event_sink SET owner = %(owner)s::text, until_us = c.now_us + %(lasts_us)s::bigint, seen_us = c.now_us
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us) c
WHERE name = %(sink)s::text AND (owner = %(owner)s::text OR until_us <= c.now_us)
RETURNING event_id;

-- name: advance
UPDATE sfm.event_sink SET event_id = %(event_id)s::bigint, until_us = c.now_us + %(lasts_us)s::bigint, seen_us = c.now_us
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us) c
WHERE name = %(sink)s::text AND owner = %(owner)s::text;

-- name: release
UPDATE sfm.event_sink SET owner = '', until_us = 0 WHERE name = %(sink)s::text AND owner = %(owner)s::text;
