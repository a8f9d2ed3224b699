-- Prunes: plans, audits, what can be undone, limits.

-- name: find_plan_row
SELECT state, expire_time_us, apply_time_us FROM prune_plan
WHERE plan_id = :plan_id AND tenant = :tenant AND namespace = :namespace;

-- name: find_undo_row
SELECT until_us, undone_by FROM prune_undo
WHERE tenant = :tenant AND namespace = :namespace AND number = :number;

-- name: find_last_audit
SELECT number, hash FROM prune_audit
WHERE tenant = :tenant AND namespace = :namespace ORDER BY number DESC LIMIT 1;

-- name: insert_audit
INSERT INTO prune_audit (tenant, namespace, number, time_us, record, hash)
VALUES (:tenant, :namespace, :number, :time_us, :record, :hash);

-- name: insert_undo
INSERT INTO prune_undo (tenant, namespace, number, until_us, undone_by, items)
VALUES (:tenant, :namespace, :number, :until_us, 0, :items);

-- name: end_undo
UPDATE prune_undo SET undone_by = :undone_by
WHERE tenant = :tenant AND namespace = :namespace AND number = :number;

-- name: end_plan
UPDATE prune_plan SET state = 2, apply_time_us = :apply_time_us WHERE plan_id = :plan_id;

-- name: list_least
-- What is least important, the oldest first.
SELECT m.key, m.revision, length(m.payload) FROM memory m
WHERE m.space_id = :space_id AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > :now_us)
ORDER BY m.importance, m.create_time_us, m.key LIMIT :limit;

-- name: insert_plan
INSERT INTO prune_plan (
  plan_id, tenant, namespace, source, state, create_time_us, expire_time_us, apply_time_us, committer, order_id, facts, digest,
  order_digest, secret, items)
VALUES (
  :plan_id, :tenant, :namespace, :source, :state, :create_time_us, :expire_time_us, 0, :committer,
  :order_id, :facts, :digest, :order_digest, :secret, :items)
ON CONFLICT (plan_id) DO NOTHING;

-- name: find_plan
SELECT {plan}, CASE WHEN :items THEN p.items END FROM prune_plan p
WHERE p.plan_id = :plan_id AND p.tenant = :tenant AND p.namespace = :namespace;

-- name: list_plans
SELECT {plan}, NULL FROM prune_plan p
WHERE p.tenant = :tenant AND (:namespace = '' OR p.namespace = :namespace)
  AND (p.create_time_us, p.plan_id) < (:before_us, :before_id)
  AND (:state = 0 OR CASE WHEN p.state = 1 AND p.expire_time_us <= :now_us THEN 3 ELSE p.state END = :state)
ORDER BY p.create_time_us DESC, p.plan_id DESC LIMIT :limit;

-- name: list_audits
SELECT number, time_us, record, hash FROM prune_audit
WHERE tenant = :tenant AND namespace = :namespace AND number > :after
ORDER BY number LIMIT :limit;

-- name: find_undo
SELECT number, until_us, undone_by, items FROM prune_undo
WHERE tenant = :tenant AND namespace = :namespace AND number = :number;

-- name: forget_undo
DELETE FROM prune_undo WHERE until_us <= :now_us;

-- name: forget_plans
DELETE FROM prune_plan WHERE expire_time_us <= :before_us;

-- name: set_limit
UPDATE memory_space SET memories_max = :memories_max, limit_policy = :policy WHERE space_id = :space_id;

-- name: list_over_limit
SELECT s.tenant, s.name, {space} FROM memory_space s
WHERE s.memories_max > 0 AND s.memories > s.memories_max AND s.limit_policy = 2
  AND (s.tenant, s.name) > (:tenant, :namespace) ORDER BY s.tenant, s.name LIMIT :limit;
