-- Memories: what comes to its end, and how far an index is.

-- name: list_expired
SELECT s.tenant, s.name, m.key FROM sfm.memory m JOIN sfm.memory_space s ON s.space_id = m.space_id
WHERE m.expire_time_us > 0 AND m.delete_time_us = 0 AND m.expire_time_us <= %(now_us)s::bigint
ORDER BY m.expire_time_us LIMIT %(limit)s::bigint;

-- name: bury
-- Where the index has never been fed with the namespace it has no point of it. The namespaces' rows are locked in one order, as
-- nobody else locks two of them.
WITH dead AS (
  SELECT m.space_id, m.key FROM sfm.memory m
  LEFT JOIN sfm.memory_index i ON i.space_id = m.space_id AND i.name = %(index)s::text
  WHERE m.delete_time_us > 0 AND (m.delete_time_us < %(before_us)s::bigint OR m.digest = '')
    AND m.revision <= COALESCE(i.revision, m.revision)
  ORDER BY m.delete_time_us LIMIT %(limit)s::bigint),
locked AS (
  SELECT s.space_id FROM sfm.memory_space s WHERE s.space_id IN (SELECT space_id FROM dead) ORDER BY s.space_id FOR UPDATE),
gone AS (
  -- Asked again of the row as it is: it may have been put, or undeleted, since.
  DELETE FROM sfm.memory m USING dead, locked
  WHERE m.space_id = dead.space_id AND m.space_id = locked.space_id AND m.key = dead.key
    AND m.delete_time_us > 0 AND (m.delete_time_us < %(before_us)s::bigint OR m.digest = '')
  RETURNING m.space_id),
counted AS (
  UPDATE sfm.memory_space s SET tombstones = s.tombstones - g.count
  FROM (SELECT space_id, count(*) AS count FROM gone GROUP BY space_id) g WHERE s.space_id = g.space_id)
SELECT count(*) FROM gone;

-- name: list_behind
SELECT s.tenant, s.name, COALESCE(i.revision, 0), s.dimension, s.distance, s.revision, s.memories, s.vectors, s.payload_bytes,
  s.tombstones, s.create_time_us, s.update_time_us
FROM sfm.memory_space s LEFT JOIN sfm.memory_index i ON i.space_id = s.space_id AND i.name = %(index)s::text
WHERE s.dimension > 0 AND s.revision > COALESCE(i.revision, 0) ORDER BY s.space_id LIMIT %(limit)s::bigint;

-- name: find_indexed
SELECT i.revision FROM sfm.memory_space s JOIN sfm.memory_index i ON i.space_id = s.space_id
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND i.name = %(index)s::text;

-- name: begin_index
INSERT INTO sfm.memory_index (space_id, name, revision, owner, until_us)
SELECT space_id, %(index)s::text, 0, '', 0 FROM sfm.memory_space WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text
ON CONFLICT DO NOTHING;

-- name: take_index
-- By the database's clock: all who take turns have the same.
UPDATE sfm.memory_index i SET owner = %(owner)s::text, until_us = c.now_us + %(lasts_us)s::bigint
FROM sfm.memory_space s, (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us) c
WHERE s.space_id = i.space_id AND s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND i.name = %(index)s::text
  AND (i.owner = %(owner)s::text OR i.until_us <= c.now_us)
RETURNING i.revision, s.dimension, s.distance, s.revision, s.memories, s.vectors, s.payload_bytes, s.tombstones, s.create_time_us,
  s.update_time_us;

-- name: advance_index
UPDATE sfm.memory_index i SET revision = %(revision)s::bigint,
  until_us = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %(lasts_us)s::bigint
FROM sfm.memory_space s
WHERE s.space_id = i.space_id AND s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND i.name = %(index)s::text
  AND i.owner = %(owner)s::text;

-- name: release_index
UPDATE sfm.memory_index i SET owner = '', until_us = 0 FROM sfm.memory_space s
WHERE s.space_id = i.space_id AND s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND i.name = %(index)s::text
  AND i.owner = %(owner)s::text;

-- name: forget_index
-- Whoever feeds it just now loses the turn: what it goes on with is no longer true.
UPDATE sfm.memory_index i SET revision = 0, owner = '', until_us = 0 FROM sfm.memory_space s
WHERE s.space_id = i.space_id AND s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND i.name = %(index)s::text;

-- name: list_changed
SELECT {columns} FROM sfm.memory_space s JOIN sfm.memory m ON m.space_id = s.space_id
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND m.revision > %(after)s::bigint
ORDER BY m.revision LIMIT %(limit)s::bigint;
