-- How far vector indexes are.

-- name: keep_index
INSERT INTO index_seen (name, time_us) VALUES (:index, :now_us) ON CONFLICT (name) DO UPDATE SET time_us = excluded.time_us;

-- name: lose_indexes
-- Of which nobody has said for long that they are there: whoever brings one back feeds it from the beginning.
DELETE FROM index_seen WHERE time_us < :before_us;

-- name: forget_lost
DELETE FROM memory_index WHERE name NOT IN (SELECT name FROM index_seen);

-- name: forget_lost_refused
DELETE FROM memory_refused WHERE name NOT IN (SELECT name FROM index_seen);

-- name: list_behind
SELECT s.tenant, s.name, COALESCE(i.revision, 0), {space}
FROM memory_space s LEFT JOIN memory_index i ON i.space_id = s.space_id AND i.name = :index
WHERE s.dimension > 0 AND s.revision > COALESCE(i.revision, 0) ORDER BY s.space_id LIMIT :limit;

-- name: find_progress
SELECT COALESCE(i.revision, 0), {space}
FROM memory_space s LEFT JOIN memory_index i ON i.space_id = s.space_id AND i.name = :index
WHERE s.tenant = :tenant AND s.name = :namespace AND s.create_time_us > 0;

-- name: begin_index
INSERT OR IGNORE INTO memory_index (space_id, name, revision, owner, until_us)
SELECT space_id, :index, 0, '', 0 FROM memory_space WHERE space_id = :number;

-- name: take_index
UPDATE memory_index SET owner = :owner, until_us = :until_us
WHERE space_id = :number AND name = :index AND (owner = :owner OR until_us <= :now_us)
RETURNING revision;

-- name: advance_index
UPDATE memory_index SET revision = :revision, until_us = :until_us
WHERE space_id = :number AND name = :index AND owner = :owner;

-- name: release_index
UPDATE memory_index SET owner = '', until_us = 0 WHERE space_id = :number AND name = :index AND owner = :owner;

-- name: end_turns
UPDATE memory_index SET owner = '', until_us = 0 WHERE name = :index AND owner <> '';

-- name: forget_index
-- Whoever feeds it just now loses the turn: what it goes on with is no longer true.
UPDATE memory_index SET revision = 0, owner = '', until_us = 0 WHERE space_id = :number AND name = :index;

-- name: list_changed
SELECT {columns} FROM memory m WHERE m.space_id = :number AND m.revision > :after ORDER BY m.revision LIMIT :limit;

-- name: list_pointed
-- What an index should have: expired ones, too, until they are purged.
SELECT m.key, m.revision FROM memory m
WHERE m.space_id = :number AND m.key > :after AND m.delete_time_us = 0 AND m.vector IS NOT NULL ORDER BY m.key LIMIT :limit;

-- name: get_all
SELECT {columns} FROM memory m WHERE m.space_id = :number AND m.key IN (SELECT value FROM json_each(:keys));

-- name: put_refused
INSERT INTO memory_refused (space_id, name, key, revision, reason, time_us) VALUES (:number, :index, :key, :revision, :reason, :time_us)
ON CONFLICT (space_id, name, key) DO UPDATE SET revision = excluded.revision, reason = excluded.reason, time_us = excluded.time_us;

-- name: list_refused
-- Those that were not written since.
SELECT r.key, r.revision, r.reason, r.time_us FROM memory_refused r JOIN memory m ON m.space_id = r.space_id AND m.key = r.key
WHERE r.space_id = :number AND r.name = :index AND m.revision = r.revision ORDER BY r.key LIMIT :limit;

-- name: delete_refused
DELETE FROM memory_refused WHERE space_id = :number AND name = :index;

-- name: list_dropped
SELECT d.tenant, d.name, d.space_id, d.dimension, d.distance
FROM memory_dropped d JOIN memory_index i ON i.space_id = d.space_id AND i.name = :index ORDER BY d.space_id LIMIT :limit;

-- name: forget_dropped
DELETE FROM memory_index WHERE space_id = :number AND name = :index;
