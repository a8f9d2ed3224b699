-- Memories: questions, and what the one write path writes of them.

-- name: list_known
SELECT key, revision, digest, length(payload), vector IS NOT NULL, expire_time_us, create_time_us, update_time_us, delete_time_us
FROM memory WHERE space_id = :space_id AND key IN (SELECT value FROM json_each(:keys));

-- name: put
-- Whole memories, whatever the rows held.
INSERT INTO memory (
  delete_time_us, space_id, update_time_us, key, revision, create_time_us, expire_time_us, memory_type, importance, digest, payload,
  coordinates, vector, c0, c1, c2, c3, c4, c5, c6, c7)
VALUES {rows}
ON CONFLICT (space_id, key) DO UPDATE SET revision = excluded.revision, create_time_us = excluded.create_time_us,
  update_time_us = excluded.update_time_us, expire_time_us = excluded.expire_time_us, delete_time_us = 0,
  memory_type = excluded.memory_type, importance = excluded.importance, coordinates = excluded.coordinates, c0 = excluded.c0,
  c1 = excluded.c1, c2 = excluded.c2, c3 = excluded.c3, c4 = excluded.c4, c5 = excluded.c5, c6 = excluded.c6, c7 = excluded.c7,
  digest = excluded.digest, payload = excluded.payload, vector = excluded.vector;

-- name: put_parts
-- {parts} of a memory that lives.
UPDATE memory SET revision = :revision, update_time_us = :update_time_us, {parts} WHERE space_id = :space_id AND key = :key;

-- name: mark
UPDATE memory SET revision = :revision, update_time_us = :update_time_us, delete_time_us = :delete_time_us
WHERE space_id = :space_id AND key = :key;

-- name: erase
UPDATE memory SET revision = :revision, update_time_us = :update_time_us, delete_time_us = :delete_time_us, expire_time_us = 0,
  memory_type = '', importance = 0, coordinates = 0, c0 = NULL, c1 = NULL, c2 = NULL, c3 = NULL, c4 = NULL, c5 = NULL, c6 = NULL,
  c7 = NULL, digest = x'', payload = x'', vector = NULL
WHERE space_id = :space_id AND key = :key;

-- name: get
SELECT {columns} FROM memory_space s JOIN memory m ON m.space_id = s.space_id
WHERE s.tenant = :tenant AND s.name = :namespace AND m.key IN (SELECT value FROM json_each(:keys))
  AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > :now_us);

-- name: page
SELECT {columns} FROM memory m
WHERE m.space_id = :space_id AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > :now_us){chosen}
ORDER BY {order} LIMIT :limit;

-- name: list_stats
SELECT m.memory_type, count(*), sum(m.vector IS NOT NULL), sum(length(m.payload)), sum(m.expire_time_us > 0), min(m.importance),
  avg(m.importance), max(m.importance), min(m.create_time_us), max(m.update_time_us)
FROM memory m
WHERE m.space_id = :space_id AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > :now_us){chosen}
GROUP BY m.memory_type ORDER BY m.memory_type;
