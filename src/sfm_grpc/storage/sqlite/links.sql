-- Links from one memory to another.

-- name: find_link
SELECT create_time_us FROM memory_link WHERE space_id = ? AND source = ? AND link_type = ? AND target = ?;

-- name: put_link
INSERT INTO memory_link (space_id, source, link_type, target, weight, create_time_us, update_time_us)
VALUES (:space_id, :source, :link_type, :target, :weight, :create_time_us, :update_time_us)
ON CONFLICT (space_id, source, link_type, target) DO UPDATE SET weight = excluded.weight, update_time_us = excluded.update_time_us;

-- name: delete_link
DELETE FROM memory_link WHERE space_id = :space_id AND source = :source AND link_type = :link_type AND target = :target;

-- name: delete_links_from
DELETE FROM memory_link WHERE space_id = :space_id AND source = :key;

-- name: delete_links_to
DELETE FROM memory_link WHERE space_id = :space_id AND target = :key;

-- name: list_links
-- Of a memory ({near}) with others ({far}) that live.
SELECT l.source, l.link_type, l.target, l.weight, l.create_time_us, l.update_time_us
FROM memory_link l JOIN memory m ON m.space_id = l.space_id AND m.key = l.{far}
WHERE l.space_id = :space_id AND l.{near} = :key AND m.delete_time_us = 0
  AND (m.expire_time_us = 0 OR m.expire_time_us > :now_us){chosen}
ORDER BY l.link_type, l.{far} LIMIT :limit;

-- name: find_living
SELECT 1 FROM memory m WHERE m.space_id = :space_id AND m.key = :key AND m.delete_time_us = 0
  AND (m.expire_time_us = 0 OR m.expire_time_us > :now_us);
