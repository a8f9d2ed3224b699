-- Links from one memory to another.

-- name: find_links
SELECT l.source, l.link_type, l.target, l.create_time_us
FROM unnest(%(sources)s::text[], %(link_types)s::text[], %(targets)s::text[]) AS asked (source, link_type, target)
JOIN sfm.memory_space s ON s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text
CROSS JOIN LATERAL (
  SELECT * FROM sfm.memory_link
  WHERE space_id = s.space_id AND source = asked.source AND link_type = asked.link_type AND target = asked.target LIMIT 1) l;

-- name: put_link
INSERT INTO sfm.memory_link (space_id, source, link_type, target, weight, create_time_us, update_time_us)
VALUES (%(space_id)s, %(source)s, %(link_type)s, %(target)s, %(weight)s, %(create_time_us)s, %(update_time_us)s)
ON CONFLICT (space_id, source, link_type, target) DO UPDATE SET weight = excluded.weight, update_time_us = excluded.update_time_us;

-- name: delete_link
DELETE FROM sfm.memory_link
WHERE space_id = %(space_id)s AND source = %(source)s AND link_type = %(link_type)s AND target = %(target)s;

-- name: cut_links
DELETE FROM sfm.memory_link WHERE space_id = %(space_id)s AND (source = ANY(%(keys)s::text[]) OR target = ANY(%(keys)s::text[]));

-- name: find_living
SELECT s.space_id, m.key FROM sfm.memory_space s LEFT JOIN sfm.memory m ON m.space_id = s.space_id AND m.key = %(key)s::text
  AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > %(now_us)s::bigint)
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text AND s.create_time_us > 0;

-- name: list_links
-- Of a memory ({near}) with others ({far}) that live.
SELECT l.source, l.link_type, l.target, l.weight, l.create_time_us, l.update_time_us
FROM sfm.memory_link l JOIN sfm.memory m ON m.space_id = l.space_id AND m.key = l.{far}
WHERE l.space_id = %(space_id)s AND l.{near} = %(key)s AND m.delete_time_us = 0
  AND (m.expire_time_us = 0 OR m.expire_time_us > %(now_us)s){chosen}
ORDER BY l.link_type, l.{far} LIMIT %(limit)s;
