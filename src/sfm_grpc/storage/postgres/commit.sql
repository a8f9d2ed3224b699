-- The one write path. `commit` is one statement, so one round trip and one transaction; {head} is `advance` or `create`.

-- name: look
-- Where the namespace is, and what it holds: of the newest version, or of the one to restore. A row for each key; one without
-- a key where it holds none. LEFT: what was lost is carried along as lost, it does not vanish.
SELECT n.namespace_id, n.commit_id, n.compactions, n.version, n.oldest, COALESCE(v.commit_time_us, 0), COALESCE(v.committer, ''),
  s.version IS NOT NULL OR %(restored)s::bigint = 0, n.cache_state, n.cache_name, n.cache_epoch, n.cache_held, e.key, e.put_version, b.certificate
FROM sfm.namespace n
LEFT JOIN sfm.rho_version v ON v.namespace_id = n.namespace_id AND v.version = n.version
LEFT JOIN sfm.rho_version s ON s.namespace_id = n.namespace_id AND s.version = %(restored)s::bigint
LEFT JOIN LATERAL unnest(
  CASE WHEN %(restored)s::bigint IN (0, n.version) THEN n.keys ELSE s.keys END,
  CASE WHEN %(restored)s::bigint IN (0, n.version) THEN n.put_versions ELSE s.put_versions END) AS e (key, put_version) ON true
LEFT JOIN LATERAL (
  SELECT * FROM sfm.rho_body WHERE namespace_id = n.namespace_id AND key = e.key AND put_version = e.put_version LIMIT 1) b ON true
WHERE n.tenant = %(tenant)s::text AND n.name = %(namespace)s::text;

-- name: find_request
SELECT content_digest, version, commit_time_us, receipt, first_time_us, memories FROM sfm.request
WHERE tenant = %(tenant)s::text AND namespace = %(namespace)s::text AND method = %(method)s::text AND request_id = %(request_id)s::text;

-- name: find_kinds
SELECT k.key, k.kind FROM sfm.namespace n JOIN sfm.rho_key k ON k.namespace_id = n.namespace_id
WHERE n.tenant = %(tenant)s::text AND n.name = %(namespace)s::text AND k.key = ANY(%(puts)s::text[]);

-- name: advance
-- The row lock is order and comparison at once: who waited for it finds another version and changes nothing. The commit id is
-- compared too, so that what this process remembers of a version is never taken for another history's version of that number;
-- of a restore also the compactions, so that its target has not gone since it was looked at.
UPDATE sfm.namespace SET version = version + 1, commit_id = %(commit_id)s::bigint,
  keys = %(keys)s::text[], put_versions = %(put_versions)s::bigint[]
WHERE namespace_id = %(namespace_id)s::bigint AND version = %(expected)s::bigint AND commit_id = %(known_id)s::bigint
  AND (%(restored)s::bigint = 0 OR compactions = %(compactions)s::bigint)
RETURNING namespace_id, version, cache_state, cache_name, cache_epoch, cache_held

-- name: create
INSERT INTO sfm.namespace (tenant, name, version, oldest, commit_id, keys, put_versions, compactions)
VALUES (%(tenant)s::text, %(namespace)s::text, 1, 1, %(commit_id)s::bigint, %(keys)s::text[], %(put_versions)s::bigint[], 0)
ON CONFLICT DO NOTHING
RETURNING namespace_id, version, cache_state, cache_name, cache_epoch, cache_held

-- name: commit
-- Nothing happens, and no row comes back, where `head` changed none. A request id that was used is a unique violation, which
-- undoes all of it. All of a commit is one message: no lock is held while it is on its way. The event's id is the transaction's: see
-- list_events in reads.sql.
WITH head AS ({head}),
v AS (
  INSERT INTO sfm.rho_version (
    namespace_id, version, commit_time_us, committer, metadata, valid, restored_version, changed_keys, keys, put_versions)
  SELECT namespace_id, version, %(commit_time_us)s::bigint, %(committer)s::text, %(metadata)s::text, %(valid)s::smallint,
    %(restored)s::bigint, %(changed_keys)s::text, %(keys)s::text[], %(put_versions)s::bigint[] FROM head),
b AS (
  INSERT INTO sfm.rho_body (namespace_id, put_version, key, certificate, sha256, packing, numbers)
  SELECT head.namespace_id, head.version, put.* FROM head, (VALUES {bodies}) AS put (key, certificate, sha256, packing, numbers)
  WHERE put.key IS NOT NULL),
k AS (
  INSERT INTO sfm.rho_key (namespace_id, key, kind)
  SELECT head.namespace_id, new.key, new.kind FROM head, unnest(%(new_keys)s::text[], %(new_kinds)s::smallint[]) AS new (key, kind)
  ON CONFLICT DO NOTHING),
r AS (
  INSERT INTO sfm.request (
    tenant, namespace, method, request_id, content_digest, version, commit_time_us, receipt, first_time_us, memories)
  SELECT %(tenant)s::text, %(namespace)s::text, %(method)s::text, %(request_id)s::text, %(content_digest)s::bytea, version,
    %(commit_time_us)s::bigint, %(receipt)s::bytea, %(time_us)s::bigint, %(memories)s::bytea FROM head WHERE %(request_id)s::text IS NOT NULL),
e AS (
  INSERT INTO sfm.event (event_id, tenant, namespace, topic, version, time_us, payload)
  SELECT (outbox.base + pg_current_xact_id()::text::bigint) << 16, %(tenant)s::text, %(namespace)s::text, %(topic)s::text,
    head.version, %(commit_time_us)s::bigint, %(payload)s::text FROM head, sfm.outbox)
SELECT namespace_id, version, cache_state, cache_name, cache_epoch, cache_held FROM head

-- name: body
-- One of {bodies}: numbered, as many as a commit puts.
(%(key_{i})s::text, %(certificate_{i})s::text, %(sha256_{i})s::bytea, %(packing_{i})s::smallint, %(numbers_{i})s::bytea)
