-- Memories: questions, and what the one write path writes of them.
--
-- What is asked for by key is looked up key by key: LIMIT keeps Postgres from reading a namespace from one end to the other instead, which
-- it takes to be as small as most are where it plans for any.

-- name: find_known
-- After the lock, in a statement of its own: it sees what was committed while the lock was waited for.
SELECT m.key, m.revision, m.digest, length(m.payload), m.vector IS NOT NULL, m.expire_time_us, m.create_time_us, m.update_time_us,
  m.delete_time_us
FROM sfm.memory_space s CROSS JOIN unnest(%(keys)s::text[]) AS asked (key)
CROSS JOIN LATERAL (SELECT * FROM sfm.memory WHERE space_id = s.space_id AND key = asked.key LIMIT 1) m
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text;

-- name: put
-- Whole memories, whatever the rows held. An array for each column costs a third of what a statement for each row does; NULL
-- stands for an array of nothing but NULL.
INSERT INTO sfm.memory (
  space_id, update_time_us, delete_time_us, key, revision, create_time_us, expire_time_us, memory_type, importance, digest, payload,
  coordinates, vector, c0, c1, c2, c3, c4, c5, c6, c7)
SELECT %b::bigint, %b::bigint, 0, p.* FROM unnest(
  %b::text[], %b::bigint[], %b::bigint[], %b::bigint[], %b::text[], %b::float8[], %b::bytea[], %b::bytea[], %b::smallint[], %b::bytea[],
  %b::float8[], %b::float8[], %b::float8[], %b::float8[], %b::float8[], %b::float8[], %b::float8[], %b::float8[]) AS p
ON CONFLICT (space_id, key) DO UPDATE SET revision = excluded.revision, create_time_us = excluded.create_time_us,
  update_time_us = excluded.update_time_us, expire_time_us = excluded.expire_time_us, delete_time_us = 0,
  memory_type = excluded.memory_type, importance = excluded.importance, coordinates = excluded.coordinates, c0 = excluded.c0,
  c1 = excluded.c1, c2 = excluded.c2, c3 = excluded.c3, c4 = excluded.c4, c5 = excluded.c5, c6 = excluded.c6, c7 = excluded.c7,
  digest = excluded.digest, payload = excluded.payload, vector = excluded.vector;

-- name: put_parts
-- {parts} of a memory that lives.
UPDATE sfm.memory SET revision = %(revision)s, update_time_us = %(update_time_us)s, {parts}
WHERE space_id = %(space_id)s AND key = %(key)s;

-- name: mark
UPDATE sfm.memory m SET revision = w.revision, update_time_us = %(update_time_us)b::bigint, delete_time_us = w.delete_time_us
FROM unnest(%(keys)b::text[], %(revisions)b::bigint[], %(delete_times_us)b::bigint[]) AS w (key, revision, delete_time_us)
WHERE m.space_id = %(space_id)b::bigint AND m.key = w.key;

-- name: erase
UPDATE sfm.memory SET revision = %(revision)s, update_time_us = %(update_time_us)s, delete_time_us = %(delete_time_us)s,
  expire_time_us = 0, memory_type = '', importance = 0, coordinates = 0, c0 = NULL, c1 = NULL, c2 = NULL, c3 = NULL, c4 = NULL,
  c5 = NULL, c6 = NULL, c7 = NULL, digest = '', payload = '', vector = NULL
WHERE space_id = %(space_id)s AND key = %(key)s;

-- name: remember_request
INSERT INTO sfm.request (
  tenant, namespace, method, request_id, content_digest, version, commit_time_us, receipt, first_time_us, memories)
VALUES (%(tenant)s, %(namespace)s, %(method)s, %(request_id)s, %(content_digest)s, 0, %(commit_time_us)s, %(receipt)s, %(time_us)s,
  %(memories)s);

-- name: insert_event
-- After the one of the version, where the transaction also made one: see `commit` in commit.sql.
INSERT INTO sfm.event (event_id, tenant, namespace, topic, version, time_us, payload)
SELECT ((outbox.base + pg_current_xact_id()::text::bigint) << 16) + %(place)s::bigint, %(tenant)s::text, %(namespace)s::text, %(topic)s::text,
  %(about)s::bigint, %(commit_time_us)s::bigint, %(payload)s::text FROM sfm.outbox;

-- name: get
SELECT {columns} FROM sfm.memory_space s CROSS JOIN unnest(%(keys)s::text[]) AS asked (key)
CROSS JOIN LATERAL (SELECT * FROM sfm.memory WHERE space_id = s.space_id AND key = asked.key LIMIT 1) m
WHERE s.tenant = %(tenant)s::text AND s.name = %(namespace)s::text
  AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > %(now_us)s::bigint);

-- name: page
SELECT {columns} FROM sfm.memory m
WHERE m.space_id = %(space_id)s AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > %(now_us)s){chosen}
ORDER BY {order} LIMIT %(limit)s;

-- name: list_stats
SELECT m.memory_type, count(*), count(m.vector), sum(length(m.payload))::bigint, count(*) FILTER (WHERE m.expire_time_us > 0),
  min(m.importance), avg(m.importance), max(m.importance), min(m.create_time_us), max(m.update_time_us)
FROM sfm.memory m
WHERE m.space_id = %(space_id)s AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > %(now_us)s){chosen}
GROUP BY m.memory_type ORDER BY m.memory_type;
