-- Whether a cache may stand before a namespace: its head's row says so, so that a commit finds out while it has the lock.

-- name: see
SELECT version, cache_state, cache_name, cache_epoch, cache_held FROM sfm.namespace
WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text;

-- name: see_all
SELECT w.tenant, w.name, n.* FROM unnest(%(tenants)s::text[], %(namespaces)s::text[]) AS w (tenant, name)
CROSS JOIN LATERAL (
  SELECT version, cache_state, cache_name, cache_epoch, cache_held FROM sfm.namespace WHERE tenant = w.tenant AND name = w.name LIMIT 1) n;

-- name: on
-- The lock waits for every commit that saw it drained: who fills from now on has seen them.
UPDATE sfm.namespace SET cache_state = 1, cache_name = %(cache)s::text, cache_epoch = cache_epoch + 1
WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text AND cache_state = 0 AND NOT cache_held;

-- name: off
UPDATE sfm.namespace SET cache_state = 2
WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text AND cache_state = 1;

-- name: drained
-- Not where it was on again since: that epoch's leases are others.
UPDATE sfm.namespace SET cache_state = 0
WHERE tenant = %(tenant)s::text AND name = %(namespace)s::text AND cache_state = 2 AND cache_epoch = %(epoch)s::bigint;

-- name: hold
UPDATE sfm.namespace SET cache_held = %(held)s::boolean
WHERE tenant = %(tenant)s::text AND (name = %(namespace)s::text OR %(namespace)s::text = '');

-- name: list
SELECT name, version, cache_state, cache_name, cache_epoch, cache_held FROM sfm.namespace
WHERE tenant = %(tenant)s::text AND name > %(after)s::text ORDER BY name LIMIT %(limit)s::bigint;
