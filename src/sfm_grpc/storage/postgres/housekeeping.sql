-- name: lock_namespace
-- Before versions go, so that no restore of one of them is under way.
SELECT namespace_id, version, oldest FROM sfm.namespace
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
-- Those that an expired version holds and no other does: a restore may have made a later version hold one again.
DELETE FROM sfm.rho_body b
USING (
  SELECT e.key, e.put_version FROM sfm.rho_version v, unnest(v.keys, v.put_versions) AS e (key, put_version)
  WHERE v.namespace_id = %(namespace_id)s::bigint AND v.version = ANY(%(expired)s::bigint[])
  EXCEPT
  SELECT e.key, e.put_version FROM sfm.rho_version v, unnest(v.keys, v.put_versions) AS e (key, put_version)
  WHERE v.namespace_id = %(namespace_id)s::bigint AND v.version <> ALL(%(expired)s::bigint[])
  EXCEPT
  SELECT e.key, e.put_version FROM sfm.namespace n, unnest(n.keys, n.put_versions) AS e (key, put_version)
  WHERE n.namespace_id = %(namespace_id)s::bigint
) unused
WHERE b.namespace_id = %(namespace_id)s::bigint AND b.key = unused.key AND b.put_version = unused.put_version;

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
-- ANY of an array: looked up one by one, whatever the planner thinks of how many there are.
DELETE FROM sfm.event WHERE event_id = ANY(ARRAY(
  SELECT event_id FROM sfm.event
  WHERE event_id <= (SELECT event_id FROM sfm.event ORDER BY event_id DESC OFFSET %(events)s::bigint LIMIT 1)
  ORDER BY event_id LIMIT %(limit)s::bigint FOR UPDATE SKIP LOCKED));
