-- name: list_expired
-- The oldest versions that are beyond the number kept or too old, but never the head nor the newest valid one.
SELECT version FROM rho_version
WHERE namespace_id = :namespace_id
  AND version < :newest
  AND (version <= :newest - :versions OR commit_time_us < :oldest_time_us)
  AND version <> COALESCE(
    (SELECT MAX(version) FROM rho_version WHERE namespace_id = :namespace_id AND valid = 1), 0)
ORDER BY version LIMIT :limit;

-- name: list_bodies
SELECT e.key, e.body_id, LENGTH(b.numbers) FROM rho_entry e JOIN rho_body b ON b.body_id = e.body_id
WHERE e.namespace_id = :namespace_id AND e.version = :version;

-- name: delete_entries
DELETE FROM rho_entry WHERE namespace_id = :namespace_id AND version = :version;

-- name: delete_body_if_unused
-- A body belongs to one key; a restore may have made a later version hold it again. One look-up for each kept version.
DELETE FROM rho_body WHERE body_id = :body_id AND NOT EXISTS (
  SELECT 1 FROM rho_version v CROSS JOIN rho_entry e
  ON e.namespace_id = v.namespace_id AND e.version = v.version AND e.key = :key
  WHERE v.namespace_id = :namespace_id AND e.body_id = :body_id);

-- name: delete_version
DELETE FROM rho_version WHERE namespace_id = :namespace_id AND version = :version;

-- name: set_oldest
UPDATE namespace SET oldest = (SELECT MIN(version) FROM rho_version WHERE namespace_id = :namespace_id)
WHERE namespace_id = :namespace_id;

-- name: delete_requests
DELETE FROM request WHERE (tenant, namespace, method, request_id) IN (
  SELECT tenant, namespace, method, request_id FROM request WHERE first_time_us < :oldest_time_us ORDER BY first_time_us LIMIT :limit);

-- name: list_old_events
-- Beyond the number kept, and sent; or beyond the number kept unsent.
SELECT event_id FROM event
WHERE event_id <= (SELECT MAX(event_id) FROM event) - :events
  AND event_id <= MAX(
    COALESCE((SELECT MIN(event_id) FROM event_sink WHERE seen_us > :seen_since_us), 9223372036854775807),
    (SELECT MAX(event_id) FROM event) - :events_unsent)
ORDER BY event_id LIMIT :limit;

-- name: count_dropped
UPDATE event_sink SET dropped = dropped + (SELECT COUNT(*) FROM event e WHERE e.event_id <= :last AND e.event_id > event_sink.event_id)
WHERE event_id < :last;

-- name: delete_events
DELETE FROM event WHERE event_id <= :last;
