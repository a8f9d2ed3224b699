-- Memories: what comes to its end.

-- name: list_expired
SELECT s.tenant, s.name, m.key FROM sfm.memory m JOIN sfm.memory_space s ON s.space_id = m.space_id
WHERE m.expire_time_us > 0 AND m.delete_time_us = 0 AND m.expire_time_us <= %(now_us)s::bigint
ORDER BY m.expire_time_us LIMIT %(limit)s::bigint;

-- name: bury
-- Not one that an index may still have: it must be told first. The namespaces' rows are locked in one order, as nobody else locks two
-- of them.
WITH dead AS (
  SELECT m.space_id, m.key FROM sfm.memory m JOIN sfm.memory_space s ON s.space_id = m.space_id
  WHERE m.delete_time_us > 0 AND (m.delete_time_us < %(before_us)s::bigint OR m.digest = '')
    AND NOT EXISTS (SELECT 1 FROM sfm.memory_index i WHERE i.space_id = m.space_id AND i.revision < m.revision)
  ORDER BY m.delete_time_us LIMIT %(limit)s::bigint),
locked AS (
  SELECT s.space_id FROM sfm.memory_space s WHERE s.space_id = ANY(ARRAY(SELECT space_id FROM dead)) ORDER BY s.space_id FOR UPDATE),
gone AS (
  -- Asked again of the row as it is: it may have been put, or undeleted, since.
  DELETE FROM sfm.memory m USING dead, locked
  WHERE m.space_id = dead.space_id AND m.space_id = locked.space_id AND m.key = dead.key
    AND m.delete_time_us > 0 AND (m.delete_time_us < %(before_us)s::bigint OR m.digest = '')
  RETURNING m.space_id, m.key),
-- One for each way, as there is an index for each: an OR of both would read every link for every memory.
cut AS (DELETE FROM sfm.memory_link l USING gone WHERE l.space_id = gone.space_id AND l.source = gone.key),
cut_incoming AS (DELETE FROM sfm.memory_link l USING gone WHERE l.space_id = gone.space_id AND l.target = gone.key),
counted AS (
  UPDATE sfm.memory_space s SET tombstones = s.tombstones - g.count
  FROM (SELECT space_id, count(*) AS count FROM gone GROUP BY space_id) g WHERE s.space_id = g.space_id)
SELECT count(*) FROM gone;
