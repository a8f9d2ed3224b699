-- Memories: what comes to its end.

-- name: list_expired
SELECT s.tenant, s.name, m.key FROM memory m JOIN memory_space s ON s.space_id = m.space_id
WHERE m.expire_time_us > 0 AND m.delete_time_us = 0 AND m.expire_time_us <= :now_us ORDER BY m.expire_time_us LIMIT :limit;

-- name: list_buried
-- Not one that an index may still have: it must be told first.
SELECT m.memory_id, m.space_id, m.key FROM memory m JOIN memory_space s ON s.space_id = m.space_id
WHERE m.delete_time_us > 0 AND (m.delete_time_us < :before_us OR m.digest = x'')
  AND NOT EXISTS (SELECT 1 FROM memory_index i WHERE i.space_id = m.space_id AND i.revision < m.revision)
ORDER BY m.delete_time_us LIMIT :limit;

-- name: delete_memory
DELETE FROM memory WHERE memory_id = ?;

-- name: delete_links_of
DELETE FROM memory_link WHERE space_id = :space_id AND (source = :key OR target = :key);

-- name: count_down
UPDATE memory_space SET tombstones = tombstones - ? WHERE space_id = ?;
