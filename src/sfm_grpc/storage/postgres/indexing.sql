-- How far vector indexes are.

-- name: keep_index
INSERT INTO sfm.index_seen (name, time_us) VALUES (%(index)s, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ON CONFLICT (name) DO UPDATE SET time_us = excluded.time_us;

-- name: lose_indexes
-- Of which nobody has said for long that they are there: whoever brings one back feeds it from the beginning.
WITH lost AS (
  DELETE FROM sfm.index_seen
  WHERE time_us < (extract(epoch FROM clock_timestamp()) * 1000000)::bigint - %(lost_after_us)s::bigint RETURNING name),
forgotten AS (DELETE FROM sfm.memory_index i USING lost WHERE i.name = lost.name)
DELETE FROM sfm.memory_refused r USING lost WHERE r.name = lost.name;

-- name: list_behind
SELECT s.tenant, s.name, COALESCE(i.revision, 0), {space}
FROM sfm.memory_space s LEFT JOIN sfm.memory_index i ON i.space_id = s.space_id AND i.name = %(index)s::text
WHERE s.dimension > 0 AND s.revision > COALESCE(i.revision, 0) ORDER BY s.space_id LIMIT %(limit)s::bigint;

-- name: find_progress
SELECT COALESCE(i.revision, 0), {space}
FROM sfm.memory_space s LEFT JOIN sfm.memory_index i ON i.space_id = s.space_id AND i.name = %(index)s::text
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND s.create_time_us > 0;

-- name: begin_index
INSERT INTO sfm.memory_index (space_id, name, revision, owner, until_us)
SELECT space_id, %(index)s::text, 0, '', 0 FROM sfm.memory_space WHERE space_id = %(number)s::bigint
ON CONFLICT DO NOTHING;

-- name: take_index
-- By the database's clock: all who take turns have the same.
UPDATE sfm.memory_index i SET owner = %(owner)s::text, until_us = c.now_us + %(lasts_us)s::bigint
FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us) c
WHERE i.space_id = %(number)s::bigint AND i.name = %(index)s::text AND (i.owner = %(owner)s::text OR i.until_us <= c.now_us)
RETURNING i.revision;

-- name: advance_index
UPDATE sfm.memory_index SET revision = %(revision)s::bigint,
  until_us = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + %(lasts_us)s::bigint
WHERE space_id = %(number)s::bigint AND name = %(index)s::text AND owner = %(owner)s::text;

-- name: release_index
UPDATE sfm.memory_index SET owner = '', until_us = 0
WHERE space_id = %(number)s::bigint AND name = %(index)s::text AND owner = %(owner)s::text;

-- name: end_turns
UPDATE sfm.memory_index SET owner = '', until_us = 0 WHERE name = %(index)s::text AND owner <> '';

-- name: forget_index
-- Whoever feeds it just now loses the turn: what it goes on with is no longer true.
UPDATE sfm.memory_index SET revision = 0, owner = '', until_us = 0 WHERE space_id = %(number)s::bigint AND name = %(index)s::text;

-- name: list_changed
SELECT {columns} FROM sfm.memory m WHERE m.space_id = %(number)s::bigint AND m.revision > %(after)s::bigint
ORDER BY m.revision LIMIT %(limit)s::bigint;

-- name: list_pointed
-- What an index should have: expired ones, too, until they are purged.
SELECT m.key, m.revision FROM sfm.memory m
WHERE m.space_id = %(number)s::bigint AND m.key > %(after)s::text AND m.delete_time_us = 0 AND m.vector IS NOT NULL
ORDER BY m.key LIMIT %(limit)s::bigint;

-- name: get_all
-- Key by key: see memories.sql.
SELECT {columns} FROM unnest(%(keys)s::text[]) AS asked (key)
CROSS JOIN LATERAL (SELECT * FROM sfm.memory WHERE space_id = %(number)s::bigint AND key = asked.key LIMIT 1) m;

-- name: put_refused
INSERT INTO sfm.memory_refused (space_id, name, key, revision, reason, time_us)
VALUES (%(number)s, %(index)s, %(key)s, %(revision)s, %(reason)s, %(time_us)s)
ON CONFLICT (space_id, name, key) DO UPDATE SET revision = excluded.revision, reason = excluded.reason, time_us = excluded.time_us;

-- name: list_refused
-- Those that were not written since.
SELECT r.key, r.revision, r.reason, r.time_us
FROM sfm.memory_refused r
CROSS JOIN LATERAL (SELECT revision FROM sfm.memory WHERE space_id = r.space_id AND key = r.key LIMIT 1) m
WHERE r.space_id = %(number)s::bigint AND r.name = %(index)s::text AND m.revision = r.revision
ORDER BY r.key LIMIT %(limit)s::bigint;

-- name: list_dropped
SELECT d.tenant, d.name, d.space_id, d.dimension, d.distance
FROM sfm.memory_dropped d JOIN sfm.memory_index i ON i.space_id = d.space_id AND i.name = %(index)s::text
ORDER BY d.space_id LIMIT %(limit)s::bigint;

-- name: forget_dropped
DELETE FROM sfm.memory_index WHERE space_id = %(number)s::bigint AND name = %(index)s::text;
