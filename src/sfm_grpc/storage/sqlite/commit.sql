-- The one write path, statement by statement, inside one BEGIN IMMEDIATE.

-- name: find_request
SELECT content_digest, version, commit_time_us, receipt, first_time_us, memories
FROM request WHERE tenant = :tenant AND namespace = :namespace AND method = :method AND request_id = :request_id;

-- name: find_head
-- LEFT: a head whose record was lost is committed over, not begun anew.
SELECT n.namespace_id, n.version, n.oldest, COALESCE(v.commit_time_us, 0), COALESCE(v.committer, '')
FROM namespace n LEFT JOIN rho_version v ON v.namespace_id = n.namespace_id AND v.version = n.version
WHERE n.tenant = :tenant AND n.name = :namespace;

-- name: create_namespace
INSERT INTO namespace (tenant, name, version, oldest) VALUES (:tenant, :namespace, 1, 1);

-- name: advance_namespace
UPDATE namespace SET version = :version WHERE namespace_id = :namespace_id;

-- name: find_kind
SELECT kind FROM rho_key WHERE namespace_id = :namespace_id AND key = :key;

-- name: fix_kind
INSERT OR IGNORE INTO rho_key (namespace_id, key, kind) VALUES (:namespace_id, :key, :kind);

-- name: list_entries
-- LEFT: a key whose numbers were lost is carried along as lost, it does not vanish.
SELECT e.key, e.body_id, COALESCE(b.put_version, 0), COALESCE(b.certificate, '')
FROM rho_entry e LEFT JOIN rho_body b ON b.body_id = e.body_id
WHERE e.namespace_id = :namespace_id AND e.version = :version;

-- name: insert_body
INSERT INTO rho_body (put_version, certificate, sha256, numbers) VALUES (:version, :certificate, :sha256, :numbers);

-- name: insert_empty_body
INSERT INTO rho_body (put_version, certificate, sha256, numbers) VALUES (:version, :certificate, :sha256, ZEROBLOB(:size));

-- name: insert_entry
INSERT INTO rho_entry (namespace_id, version, key, body_id) VALUES (:namespace_id, :version, :key, :body_id);

-- name: insert_version
INSERT INTO rho_version (namespace_id, version, commit_time_us, committer, metadata, valid, restored_version, changed_keys)
VALUES (:namespace_id, :version, :commit_time_us, :committer, :metadata, :valid, :restored_version, :changed_keys);

-- name: remember_request
INSERT INTO request (tenant, namespace, method, request_id, content_digest, version, commit_time_us, receipt, memories, first_time_us)
VALUES (:tenant, :namespace, :method, :request_id, :content_digest, :version, :commit_time_us, :receipt, :memories, :first_time_us);

-- name: insert_event
INSERT INTO event (tenant, namespace, topic, version, time_us, payload)
VALUES (:tenant, :namespace, :topic, :version, :time_us, :payload);

-- name: find_version
SELECT 1 FROM rho_version WHERE namespace_id = :namespace_id AND version = :version;
