-- Prunes: plans, audits, what can be undone, limits.

-- name: find_plan_row
SELECT state, expire_time_us, apply_time_us FROM sfm.prune_plan
WHERE plan_id = %(plan_id)s::text AND tenant = %(tenant)s::text AND namespace = %(namespace)s::text FOR UPDATE;

-- name: find_undo_row
SELECT until_us, undone_by FROM sfm.prune_undo
WHERE tenant = %(tenant)s::text AND namespace = %(namespace)s::text AND number = %(number)s::bigint;

-- name: find_last_audit
SELECT number, hash FROM sfm.prune_audit
WHERE tenant = %(tenant)s::text AND namespace = %(namespace)s::text ORDER BY number DESC LIMIT 1;

-- name: insert_audit
INSERT INTO sfm.prune_audit (tenant, namespace, number, time_us, record, hash)
VALUES (%(tenant)s, %(namespace)s, %(number)s, %(time_us)s, %(record)s, %(hash)s);

-- name: insert_undo
INSERT INTO sfm.prune_undo (tenant, namespace, number, until_us, undone_by, items)
VALUES (%(tenant)s, %(namespace)s, %(number)s, %(until_us)s, 0, %(items)s);

-- name: end_undo
UPDATE sfm.prune_undo SET undone_by = %(undone_by)s
WHERE tenant = %(tenant)s AND namespace = %(namespace)s AND number = %(number)s;

-- name: end_plan
UPDATE sfm.prune_plan SET state = 2, apply_time_us = %(apply_time_us)s WHERE plan_id = %(plan_id)s;

-- name: list_least
-- What is least important, the oldest first.
SELECT m.key, m.revision, length(m.payload) FROM sfm.memory m
WHERE m.space_id = %(space_id)s::bigint AND m.delete_time_us = 0 AND (m.expire_time_us = 0 OR m.expire_time_us > %(now_us)s::bigint)
ORDER BY m.importance, m.create_time_us, m.key LIMIT %(limit)s::bigint;

-- name: insert_plan
INSERT INTO sfm.prune_plan (
  plan_id, tenant, namespace, source, state, create_time_us, expire_time_us, apply_time_us, committer, order_id, facts, digest,
  order_digest, secret, items)
VALUES (
  %(plan_id)s, %(tenant)s, %(namespace)s, %(source)s, %(state)s, %(create_time_us)s, %(expire_time_us)s, 0, %(committer)s,
  %(order_id)s, %(facts)s, %(digest)s, %(order_digest)s, %(secret)s, %(items)s)
ON CONFLICT (plan_id) DO NOTHING RETURNING plan_id;

-- name: find_plan
SELECT {plan}, CASE WHEN %(items)s::boolean THEN p.items END FROM sfm.prune_plan p
WHERE p.plan_id = %(plan_id)s::text AND p.tenant = %(tenant)s::text AND p.namespace = %(namespace)s::text;

-- name: list_plans
SELECT {plan}, NULL FROM sfm.prune_plan p
WHERE p.tenant = %(tenant)s::text AND (%(namespace)s::text = '' OR p.namespace = %(namespace)s::text)
  AND (p.create_time_us, p.plan_id) < (%(before_us)s::bigint, %(before_id)s::text)
  AND (%(state)s::int = 0 OR CASE WHEN p.state = 1 AND p.expire_time_us <= %(now_us)s::bigint THEN 3 ELSE p.state END = %(state)s::int)
ORDER BY p.create_time_us DESC, p.plan_id DESC LIMIT %(limit)s::bigint;

-- name: list_audits
SELECT number, time_us, record, hash FROM sfm.prune_audit
WHERE tenant = %(tenant)s::text AND namespace = %(namespace)s::text AND number > %(after)s::bigint
ORDER BY number LIMIT %(limit)s::bigint;

-- name: find_undo
SELECT number, until_us, undone_by, items FROM sfm.prune_undo
WHERE tenant = %(tenant)s::text AND namespace = %(namespace)s::text AND number = %(number)s::bigint;

-- name: forget_undo
DELETE FROM sfm.prune_undo WHERE until_us <= %(now_us)s::bigint;

-- name: forget_plans
DELETE FROM sfm.prune_plan WHERE expire_time_us <= %(before_us)s::bigint;

-- name: set_limit
UPDATE sfm.memory_space SET memories_max = %(memories_max)s, limit_policy = %(policy)s WHERE space_id = %(space_id)s;

-- name: list_over_limit
SELECT s.tenant, s.name, {space} FROM sfm.memory_space s
WHERE s.memories_max > 0 AND s.memories > s.memories_max AND s.limit_policy = 2
  AND (s.tenant, s.name) > (%(tenant)s::text, %(namespace)s::text) ORDER BY s.tenant, s.name LIMIT %(limit)s::bigint;
