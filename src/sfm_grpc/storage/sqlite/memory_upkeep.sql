-- Memories: what comes to its end, and how far an index is.

-- name: list_expired
SELECT s.tenant, s.name, m.key FROM memory m JOIN memory_space s ON s.space_id = m.space_id
WHERE m.expire_time_us > 0 AND m.delete_time_us = 0 AND m.expire_time_us <= :now_us ORDER BY m.expire_time_us LIMIT :limit;

-- name: list_buried
-- Where the index has never been fed with the namespace it has no point of it.
SELECT m.memory_id, m.space_id FROM memory m LEFT JOIN memory_index i ON i.space_id = m.space_id AND i.name = :index
WHERE m.delete_time_us > 0 AND (m.delete_time_us < :before_us OR m.digest = x'') AND m.revision <= COALESCE(i.revision, m.revision)
ORDER BY m.delete_time_us LIMIT :limit;

-- name: delete_memory
DELETE FROM memory WHERE memory_id = ?;

-- name: count_down
UPDATE memory_space SET tombstones = tombstones - ? WHERE space_id = ?;

-- name: list_behind
SELECT s.tenant, s.name, COALESCE(i.revision, 0), s.dimension, s.distance, s.revision, s.memories, s.vectors, s.payload_bytes,
  s.tombstones, s.create_time_us, s.update_time_us
FROM memory_space s LEFT JOIN memory_index i ON i.space_id = s.space_id AND i.name = :index
WHERE s.dimension > 0 AND s.revision > COALESCE(i.revision, 0) ORDER BY s.space_id LIMIT :limit;

-- name: find_indexed
SELECT i.revision FROM memory_space s JOIN memory_index i ON i.space_id = s.space_id
WHERE s.tenant = :tenant AND s.name = :namespace AND i.name = :index;

-- name: begin_index
INSERT OR IGNORE INTO memory_index (space_id, name, revision, owner, until_us) VALUES (:space_id, :index, 0, '', 0);

-- name: take_index
UPDATE memory_index SET owner = :owner, until_us = :until_us
WHERE space_id = :space_id AND name = :index AND (owner = :owner OR until_us <= :now_us);

-- name: advance_index
UPDATE memory_index SET revision = :revision, until_us = :until_us
WHERE space_id = :space_id AND name = :index AND owner = :owner;

-- name: release_index
UPDATE memory_index SET owner = '', until_us = 0 WHERE space_id = :space_id AND name = :index AND owner = :owner;

-- name: forget_index
-- Whoever feeds it just now loses the turn: what it goes on with is no longer true.
UPDATE memory_index SET revision = 0, owner = '', until_us = 0 WHERE space_id = :space_id AND name = :index;

-- name: list_changed
SELECT {columns} FROM memory m WHERE m.space_id = :space_id AND m.revision > :after ORDER BY m.revision LIMIT :limit;
