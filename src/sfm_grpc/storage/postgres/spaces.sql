-- Namespaces that have memories. One that was dropped keeps its name and revision under another number.

-- name: lock_space
-- Also one that was dropped: whoever asks looks at its create_time_us.
SELECT {space} FROM sfm.memory_space s WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text FOR UPDATE;

-- name: find_space
SELECT {space} FROM sfm.memory_space s
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND s.create_time_us > 0;

-- name: list_spaces
SELECT s.name, {space} FROM sfm.memory_space s
WHERE s.tenant = %(tenant)s::text AND s.name > %(after)s::text AND s.create_time_us > 0 ORDER BY s.name LIMIT %(limit)s;

-- name: create_space
-- It does not exist yet: whoever writes to it makes it so.
INSERT INTO sfm.memory_space (
  tenant, name, dimension, distance, revision, memories, vectors, payload_bytes, tombstones, create_time_us, update_time_us, memories_max,
  limit_policy)
VALUES (%(tenant)s, %(namespace)s, 0, %(distance)s, 0, 0, 0, 0, 0, 0, 0, 0, 1)
ON CONFLICT (tenant, name) DO NOTHING
RETURNING space_id;

-- name: advance_space
UPDATE sfm.memory_space SET dimension = %(dimension)s, distance = %(distance)s, revision = %(revision)s, memories = %(memories)s,
  vectors = %(vectors)s, payload_bytes = %(payload_bytes)s, tombstones = %(tombstones)s, create_time_us = %(create_time_us)s,
  update_time_us = %(update_time_us)s, memories_max = %(memories_max)s, limit_policy = %(limit_policy)s
WHERE space_id = %(space_id)s;

-- name: drop_space
INSERT INTO sfm.memory_dropped (space_id, tenant, name, dimension, distance, drop_time_us)
SELECT space_id, tenant, name, dimension, distance, %(drop_time_us)s::bigint FROM sfm.memory_space WHERE space_id = %(space_id)s;

-- name: renumber_space
UPDATE sfm.memory_space SET space_id = DEFAULT WHERE space_id = %(space_id)s;

-- name: clear_dropped
-- What is left under the numbers of dropped namespaces. Several may do this at once, each its own rows. Number by number, and by
-- an index (LATERAL, ORDER BY): Postgres may take what was dropped to be most of what there is, and would read all of it.
WITH gone AS (
  DELETE FROM sfm.memory WHERE ctid = ANY (ARRAY(
    SELECT m.place FROM sfm.memory_dropped d CROSS JOIN LATERAL (
      SELECT ctid AS place FROM sfm.memory WHERE space_id = d.space_id ORDER BY key LIMIT %(limit)s::bigint FOR UPDATE SKIP LOCKED) m
    LIMIT %(limit)s::bigint)) RETURNING 1),
cut AS (
  DELETE FROM sfm.memory_link WHERE ctid = ANY (ARRAY(
    SELECT l.place FROM sfm.memory_dropped d CROSS JOIN LATERAL (
      SELECT ctid AS place FROM sfm.memory_link WHERE space_id = d.space_id ORDER BY source LIMIT %(limit)s::bigint
      FOR UPDATE SKIP LOCKED) l
    LIMIT %(limit)s::bigint)) RETURNING 1)
SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM cut);

-- name: end_dropped
-- As soon as nothing is left, and no index has anything of it. ORDER BY, OFFSET: for the same reason.
WITH ended AS (
  DELETE FROM sfm.memory_dropped d
  WHERE NOT EXISTS (SELECT 1 FROM sfm.memory m WHERE m.space_id = d.space_id ORDER BY m.key OFFSET 0)
    AND NOT EXISTS (SELECT 1 FROM sfm.memory_link l WHERE l.space_id = d.space_id ORDER BY l.source OFFSET 0)
    AND NOT EXISTS (SELECT 1 FROM sfm.memory_index i WHERE i.space_id = d.space_id ORDER BY i.name OFFSET 0)
  RETURNING space_id)
DELETE FROM sfm.memory_refused r USING ended WHERE r.space_id = ended.space_id;

-- name: count_expired
-- What has expired, and was not swept yet.
SELECT count(*) FROM sfm.memory_space s JOIN sfm.memory m ON m.space_id = s.space_id
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND m.delete_time_us = 0
  AND m.expire_time_us > 0 AND m.expire_time_us <= %(now_us)s::bigint;
