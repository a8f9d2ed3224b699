-- name: peek
SELECT version FROM namespace WHERE tenant = ? AND name = ?;

-- name: find_namespace
SELECT namespace_id, version, oldest FROM namespace WHERE tenant = :tenant AND name = :namespace;

-- name: find_request
SELECT 1 FROM request WHERE tenant = :tenant AND namespace = :namespace AND method = :method AND request_id = :request_id;

-- name: find_version
SELECT version, commit_time_us, committer, metadata, valid, restored_version, changed_keys
FROM rho_version WHERE namespace_id = :namespace_id AND version = :version;

-- name: list_entries
-- LEFT: a key whose numbers were lost is told of, it does not vanish.
SELECT e.key, COALESCE(b.certificate, ''), COALESCE(b.put_version, 0), e.body_id
FROM rho_entry e LEFT JOIN rho_body b ON b.body_id = e.body_id
WHERE e.namespace_id = :namespace_id AND e.version = :version ORDER BY e.key;

-- name: find_body
SELECT e.body_id FROM namespace n JOIN rho_entry e ON e.namespace_id = n.namespace_id
WHERE n.tenant = :tenant AND n.name = :namespace AND e.version = :version AND e.key = :key;

-- name: check
SELECT MAX(namespace_id) FROM namespace;

-- name: find_digest
SELECT sha256 FROM rho_body WHERE body_id = ?;

-- name: list_versions
SELECT version, commit_time_us, committer, metadata, valid, restored_version, changed_keys
FROM rho_version WHERE namespace_id = :namespace_id AND version < :before ORDER BY version DESC LIMIT :limit;

-- name: list_heads
SELECT namespace_id, tenant, name, version FROM namespace
WHERE (tenant, name) > (:tenant, :namespace) ORDER BY tenant, name LIMIT :limit;

-- name: list_events
SELECT event_id, tenant, namespace, topic, version, time_us, payload FROM event
WHERE event_id > :after ORDER BY event_id LIMIT :limit;
