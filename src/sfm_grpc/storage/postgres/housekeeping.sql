-- name: lock_namespace
-- Before versions go, so that no restore of one of them is under way.
SELECT namespace_id, version FROM sfm.namespace
WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text FOR UPDATE;

-- name: list_expired
-- The oldest versions that are beyond the number kept or too old, but never the head nor the newest valid one; and how many
-- keys each holds.
SELECT version, cardinality(keys) FROM sfm.rho_version
WHERE namespace_id = %(namespace_id)s::bigint
  AND version < %(newest)s::bigint
  AND (version <= %(newest)s::bigint - %(versions)s::bigint OR commit_time_us < %(oldest_time_us)s::bigint)
  AND version <> COALESCE(
    (SELECT MAX(version) FROM sfm.rho_version WHERE namespace_id = %(namespace_id)s::bigint AND valid = 1), 0)
ORDER BY version LIMIT %(limit)s::bigint;

-- name: delete_bodies
-- Those that an expired version holds and no kept one does; but not each kept version need be asked. What a version holds it put
-- itself, or has from its source: the version that it restored, else the one before it. From a kept version go to its source,
-- that one's source, and so on, while they are kept and hold the body. The last of them has no source that is kept; or it put the
-- body, so it is older than all others that hold it, and among them is an expired one. Those are the few that are asked, and
-- the head, whose record may have been lost. LIMIT 1, and ANY of an array: looked up one by one, whatever the planner thinks.
WITH asked AS (
  SELECT v.version FROM (
    SELECT version, restored_version, lag(version) OVER (ORDER BY version) AS before FROM sfm.rho_version
    WHERE namespace_id = %(namespace_id)s::bigint AND version <> ALL(%(expired)s::bigint[])) v
  WHERE v.version < (SELECT MAX(e) FROM unnest(%(expired)s::bigint[]) e)
    OR CASE v.restored_version WHEN 0 THEN v.before IS DISTINCT FROM v.version - 1 ELSE NOT EXISTS (
      SELECT FROM sfm.rho_version s
      WHERE namespace_id = %(namespace_id)s::bigint AND s.version = v.restored_version AND s.version <> ALL(%(expired)s::bigint[]))
    END),
unused AS (
  SELECT e.key, e.put_version FROM unnest(%(expired)s::bigint[]) AS a (version) CROSS JOIN LATERAL (
    SELECT * FROM sfm.rho_version WHERE namespace_id = %(namespace_id)s::bigint AND version = a.version LIMIT 1) v,
    unnest(v.keys, v.put_versions) AS e (key, put_version)
  EXCEPT
  SELECT e.key, e.put_version FROM asked a CROSS JOIN LATERAL (
    SELECT * FROM sfm.rho_version WHERE namespace_id = %(namespace_id)s::bigint AND version = a.version LIMIT 1) v,
    unnest(v.keys, v.put_versions) AS e (key, put_version)
  EXCEPT
  SELECT e.key, e.put_version FROM sfm.namespace n, unnest(n.keys, n.put_versions) AS e (key, put_version)
  WHERE n.namespace_id = %(namespace_id)s::bigint)
DELETE FROM sfm.rho_body WHERE ctid = ANY(ARRAY(
  SELECT (
    SELECT ctid FROM sfm.rho_body
    WHERE namespace_id = %(namespace_id)s::bigint AND key = unused.key AND put_version = unused.put_version)
  FROM unused));

-- name: delete_versions
DELETE FROM sfm.rho_version WHERE namespace_id = %(namespace_id)s::bigint AND version = ANY(%(expired)s::bigint[]);

-- name: set_oldest
UPDATE sfm.namespace SET compactions = compactions + 1, oldest = COALESCE(
  (SELECT MIN(version) FROM sfm.rho_version WHERE namespace_id = %(namespace_id)s::bigint), version)
WHERE namespace_id = %(namespace_id)s::bigint;

-- name: delete_requests
DELETE FROM sfm.request WHERE (tenant, namespace, method, request_id) IN (
  SELECT tenant, namespace, method, request_id FROM sfm.request WHERE first_time_us < %(oldest_time_us)s::bigint
  ORDER BY first_time_us LIMIT %(limit)s::bigint FOR UPDATE SKIP LOCKED);

-- name: delete_events
-- Beyond the number kept, and sent; or beyond the number kept unsent, which is counted at whoever lacks it. ANY of an array: looked up
-- one by one, whatever the planner thinks of how many there are.
WITH gone AS (
  DELETE FROM sfm.event WHERE event_id = ANY(ARRAY(
    SELECT event_id FROM sfm.event
    WHERE event_id <= (SELECT event_id FROM sfm.event ORDER BY event_id DESC OFFSET %(events)s::bigint LIMIT 1)
      AND event_id <= GREATEST(
        COALESCE((
          SELECT MIN(event_id) FROM sfm.event_sink
          WHERE seen_us > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %(lost_after_us)s::bigint), 9223372036854775807),
        (SELECT event_id FROM sfm.event ORDER BY event_id DESC OFFSET %(events_unsent)s::bigint LIMIT 1))
    ORDER BY event_id LIMIT %(limit)s::bigint FOR UPDATE SKIP LOCKED))
  RETURNING event_id),
counted AS (
  UPDATE sfm.event_sink s SET dropped = dropped + (SELECT count(*) FROM gone WHERE gone.event_id > s.event_id)
  WHERE EXISTS (SELECT 1 FROM gone WHERE gone.event_id > s.event_id))
SELECT count(*) FROM gone;
