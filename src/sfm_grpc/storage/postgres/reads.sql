-- name: read
-- A version (the newest where none is named), key by key, one consistent look. No row: no such namespace. `lost` of a version
-- that is kept no more, or lost its record.
SELECT n.namespace_id, n.version, n.oldest,
  n.cache_state, n.cache_name, n.cache_epoch, n.cache_held,
  v.version IS NULL, v.commit_time_us, v.committer, v.metadata, v.valid, v.restored_version, v.changed_keys,
  e.key, e.put_version, b.certificate, b.sha256, b.packing,
  CASE WHEN %(numbers)s::boolean AND (cardinality(%(keys)s::text[]) = 0 OR e.key = ANY(%(keys)s::text[]))
    AND b.sha256 <> ALL(%(have)s::bytea[]) THEN b.numbers END
FROM sfm.namespace n
LEFT JOIN sfm.rho_version v ON v.namespace_id = n.namespace_id AND v.version = COALESCE(%(number)s::bigint, n.version)
LEFT JOIN LATERAL unnest(
  CASE WHEN COALESCE(%(number)s::bigint, n.version) = n.version THEN n.keys ELSE v.keys END,
  CASE WHEN COALESCE(%(number)s::bigint, n.version) = n.version THEN n.put_versions ELSE v.put_versions END)
  AS e (key, put_version) ON true
LEFT JOIN LATERAL (
  SELECT * FROM sfm.rho_body WHERE namespace_id = n.namespace_id AND key = e.key AND put_version = e.put_version LIMIT 1) b ON true
WHERE n.tenant = %(tenant)s::text AND n.name = %(namespace)s::text
ORDER BY e.key;

-- name: find_body
-- `held`: whether that version is kept and holds the key.
SELECT n.version, n.oldest, e.put_version IS NOT NULL, b.sha256, b.packing, b.numbers
FROM sfm.namespace n
LEFT JOIN sfm.rho_version v ON v.namespace_id = n.namespace_id AND v.version = %(number)s::bigint
LEFT JOIN LATERAL unnest(
  CASE WHEN %(number)s::bigint = n.version THEN n.keys ELSE v.keys END,
  CASE WHEN %(number)s::bigint = n.version THEN n.put_versions ELSE v.put_versions END)
  AS e (key, put_version) ON e.key = %(key)s::text
LEFT JOIN LATERAL (
  SELECT * FROM sfm.rho_body WHERE namespace_id = n.namespace_id AND key = e.key AND put_version = e.put_version LIMIT 1) b ON true
WHERE n.tenant = %(tenant)s::text AND n.name = %(namespace)s::text;

-- name: newest
-- The version of each of these namespaces that exists.
SELECT w.tenant, w.name, n.version FROM unnest(%(tenants)s::text[], %(namespaces)s::text[]) AS w (tenant, name)
CROSS JOIN LATERAL (SELECT version FROM sfm.namespace WHERE tenant = w.tenant AND name = w.name LIMIT 1) n;

-- name: remembers
SELECT 1 FROM sfm.request
WHERE tenant = %(tenant)s::text AND namespace = %(namespace)s::text AND method = %(method)s::text AND request_id = %(request_id)s::text;

-- name: list_versions
-- A row for each version, with its manifest; and one without a version: each body that they hold, once, and its certificate, for
-- versions carry along most of what they hold. No row: no such namespace.
WITH space AS (
  SELECT namespace_id, version, oldest FROM sfm.namespace WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text),
listed AS MATERIALIZED (
  SELECT v.* FROM space n CROSS JOIN LATERAL (
    SELECT * FROM sfm.rho_version WHERE namespace_id = n.namespace_id AND version < COALESCE(%(before)s::bigint, n.version + 1)
    ORDER BY version DESC LIMIT %(limit)s::bigint) v),
held AS (SELECT DISTINCT e.key, e.put_version FROM listed v, unnest(v.keys, v.put_versions) AS e (key, put_version))
SELECT n.version, n.oldest, v.version, v.commit_time_us, v.committer, v.metadata, v.valid, v.restored_version, v.changed_keys,
  v.keys, v.put_versions, NULL::text[]
FROM space n, listed v
UNION ALL
SELECT n.version, n.oldest, NULL, NULL, NULL, NULL, NULL, NULL, NULL, h.keys, h.put_versions, h.certificates
FROM space n CROSS JOIN LATERAL (
  SELECT array_agg(e.key) AS keys, array_agg(e.put_version) AS put_versions, array_agg((
    SELECT certificate FROM sfm.rho_body
    WHERE namespace_id = n.namespace_id AND key = e.key AND put_version = e.put_version)) AS certificates
  FROM held e) h
ORDER BY 3 DESC NULLS LAST;

-- name: list_heads
-- A row for each namespace, and no more of them once they hold `most` keys together.
SELECT n.tenant, n.name, n.version, v.version IS NULL,
  v.commit_time_us, v.committer, v.metadata, v.valid, v.restored_version, v.changed_keys, n.keys, n.put_versions,
  ARRAY(
    SELECT (
      SELECT certificate FROM sfm.rho_body
      WHERE namespace_id = n.namespace_id AND key = e.key AND put_version = e.put_version)
    FROM unnest(n.keys, n.put_versions) WITH ORDINALITY AS e (key, put_version, place) ORDER BY e.place)
FROM (
  SELECT *, sum(cardinality(keys)) OVER (ORDER BY tenant, name) - cardinality(keys) AS keys_before FROM (
    SELECT * FROM sfm.namespace WHERE (tenant, name) > (%(tenant)s::text, %(namespace)s::text)
    ORDER BY tenant, name LIMIT %(limit)s::bigint) page) n
LEFT JOIN LATERAL (
  SELECT * FROM sfm.rho_version WHERE namespace_id = n.namespace_id AND version = n.version LIMIT 1) v ON true
WHERE n.keys_before < %(most)s::bigint
ORDER BY n.tenant, n.name;

-- name: list_events
-- In the order of transactions, and only those before every transaction that is still under way: none can appear later among
-- them. `base` is raised by `sfm migrate` where a dump was restored into another cluster, whose transactions are numbered lower.
SELECT event_id, tenant, namespace, topic, version, time_us, payload FROM sfm.event
WHERE event_id > %(after)s::bigint
  AND event_id < (SELECT base FROM sfm.outbox) + pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 16
ORDER BY event_id LIMIT %(limit)s::bigint;

-- name: check
-- Whether the tables are there and may be read.
SELECT MAX(namespace_id) FROM sfm.namespace;
