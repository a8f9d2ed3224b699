-- Namespaces that have memories. One that was dropped keeps its name and revision under another number.

-- name: find_space
-- Also one that was dropped: whoever asks looks at its create_time_us.
SELECT {space} FROM memory_space s WHERE s.tenant = :tenant AND s.name = :namespace;

-- name: list_spaces
SELECT s.name, {space} FROM memory_space s
WHERE s.tenant = :tenant AND s.name > :after AND s.create_time_us > 0 ORDER BY s.name LIMIT :limit;

-- name: create_space
INSERT INTO memory_space (
  tenant, name, dimension, distance, revision, memories, vectors, payload_bytes, tombstones, create_time_us, update_time_us, memories_max,
  limit_policy)
VALUES (:tenant, :namespace, :dimension, :distance, :revision, 0, 0, 0, 0, :create_time_us, :update_time_us, :memories_max, :limit_policy)
RETURNING space_id;

-- name: advance_space
UPDATE memory_space SET dimension = :dimension, distance = :distance, revision = :revision, memories = :memories, vectors = :vectors,
  payload_bytes = :payload_bytes, tombstones = :tombstones, create_time_us = :create_time_us, update_time_us = :update_time_us,
  memories_max = :memories_max, limit_policy = :limit_policy
WHERE space_id = :space_id;

-- name: drop_space
INSERT INTO memory_dropped (space_id, tenant, name, dimension, distance, drop_time_us)
SELECT space_id, tenant, name, dimension, distance, :drop_time_us FROM memory_space WHERE space_id = :space_id;

-- name: delete_space
DELETE FROM memory_space WHERE space_id = :space_id;

-- name: list_dropped
-- What is still to be taken away of it: rows, or what an index has.
SELECT d.space_id FROM memory_dropped d ORDER BY d.space_id LIMIT :limit;

-- name: delete_memories
DELETE FROM memory WHERE memory_id IN (SELECT memory_id FROM memory WHERE space_id = :space_id LIMIT :limit);

-- name: delete_links
DELETE FROM memory_link WHERE (space_id, source, link_type, target) IN (
  SELECT space_id, source, link_type, target FROM memory_link WHERE space_id = :space_id LIMIT :limit);

-- name: delete_refused
DELETE FROM memory_refused WHERE space_id = :space_id;

-- name: end_dropped
-- As soon as no index has anything of it.
DELETE FROM memory_dropped WHERE space_id = :space_id AND NOT EXISTS (SELECT 1 FROM memory_index i WHERE i.space_id = :space_id);

-- name: count_expired
-- What has expired, and was not swept yet.
SELECT count(*) FROM memory_space s JOIN memory m ON m.space_id = s.space_id
WHERE s.tenant = :tenant AND s.name = :namespace AND m.delete_time_us = 0
  AND m.expire_time_us > 0 AND m.expire_time_us <= :now_us;
