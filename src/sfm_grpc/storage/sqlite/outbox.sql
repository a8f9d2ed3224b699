-- How far events were sent, and to whom. The events themselves: list_events in reads.sql, delete_events in housekeeping.sql.

-- name: tail
SELECT event_id, tenant, namespace, topic, version, time_us, payload FROM event
WHERE event_id > :after AND tenant = :tenant AND (:namespace = '' OR namespace = :namespace)
  AND (:topics = '[]' OR topic IN (SELECT value FROM json_each(:topics)))
ORDER BY event_id LIMIT :limit;

-- name: newest
SELECT COALESCE(MAX(event_id), 0) FROM event;

-- name: keep
INSERT INTO event_sink (name, event_id, owner, until_us, seen_us, dropped) VALUES (:sink, 0, '', 0, :now_us, 0)
ON CONFLICT (name) DO UPDATE SET seen_us = excluded.seen_us;

-- name: waits
SELECT EXISTS (SELECT 1 FROM event WHERE event_id > (SELECT event_id FROM event_sink WHERE name = :sink));

-- name: backlog
SELECT (SELECT COUNT(*) FROM event e WHERE e.event_id > s.event_id),
  COALESCE((SELECT e.time_us FROM event e WHERE e.event_id > s.event_id ORDER BY e.event_id LIMIT 1), 0), s.dropped
FROM event_sink s WHERE s.name = :sink;

-- name: take
UPDATE event_sink SET owner = :owner, until_us = :until_us, seen_us = :now_us
WHERE name = :sink AND (owner = :owner OR until_us <= :now_us)
RETURNING event_id;

-- name: advance
UPDATE event_sink SET event_id = :event_id, until_us = :until_us, seen_us = :now_us WHERE name = :sink AND owner = :owner;

-- name: release
UPDATE event_sink SET owner = '', until_us = 0 WHERE name = :sink AND owner = :owner;
