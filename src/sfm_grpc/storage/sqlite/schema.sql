-- The embedded store. Plain SQL of SQLite 3.31: no STRICT, no RETURNING.
-- Times are microseconds since the Unix epoch. Few tables and fewer indexes: each is a page that every commit writes.

-- One row a namespace: its head. The row that every commit changes.
CREATE TABLE namespace (
  namespace_id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  version INTEGER NOT NULL,
  oldest INTEGER NOT NULL,
  UNIQUE (tenant, name)
);

-- A key's kind, fixed by its first commit.
CREATE TABLE rho_key (
  namespace_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  kind INTEGER NOT NULL,
  PRIMARY KEY (namespace_id, key)
) WITHOUT ROWID;

CREATE TABLE rho_version (
  namespace_id INTEGER NOT NULL,
  version INTEGER NOT NULL,
  commit_time_us INTEGER NOT NULL,
  committer TEXT NOT NULL,
  metadata TEXT NOT NULL,
  valid INTEGER NOT NULL,
  restored_version INTEGER NOT NULL,
  changed_keys TEXT NOT NULL,
  PRIMARY KEY (namespace_id, version)
) WITHOUT ROWID;

-- The numbers of one put; never changed. `sha256` is theirs: it tells damaged numbers from a damaged certificate. `numbers` is last, so that the rest is read without its pages.
CREATE TABLE rho_body (
  body_id INTEGER PRIMARY KEY,
  put_version INTEGER NOT NULL,
  certificate TEXT NOT NULL,
  sha256 BLOB NOT NULL,
  numbers BLOB NOT NULL
);

-- What each version holds.
CREATE TABLE rho_entry (
  namespace_id INTEGER NOT NULL,
  version INTEGER NOT NULL,
  key TEXT NOT NULL,
  body_id INTEGER NOT NULL,
  PRIMARY KEY (namespace_id, version, key)
) WITHOUT ROWID;

-- Mutations that succeeded, so that a retry gets the first answer again.
CREATE TABLE request (
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  method TEXT NOT NULL,
  request_id TEXT NOT NULL,
  content_digest BLOB NOT NULL,
  version INTEGER NOT NULL,
  commit_time_us INTEGER NOT NULL,
  receipt BLOB NOT NULL,
  memories BLOB NOT NULL,
  first_time_us INTEGER NOT NULL,
  PRIMARY KEY (tenant, namespace, method, request_id)
) WITHOUT ROWID;
CREATE INDEX request_age ON request (first_time_us);

-- What the rest of the world is to be told, in order. The newest row always stays (events_kept ≥ 1), so that no id is used again.
CREATE TABLE event (
  event_id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  topic TEXT NOT NULL,
  version INTEGER NOT NULL,
  time_us INTEGER NOT NULL,
  payload TEXT NOT NULL
);

-- How far the outbox was sent: a row for each place that events go to. It has all events up to `event_id`. Whose turn it is to send,
-- and until when (by this machine's clock); when it was last said to be in use; how many events were taken away before it got them.
CREATE TABLE event_sink (
  name TEXT PRIMARY KEY,
  event_id INTEGER NOT NULL,
  owner TEXT NOT NULL,
  until_us INTEGER NOT NULL,
  seen_us INTEGER NOT NULL,
  dropped INTEGER NOT NULL
) WITHOUT ROWID;

-- One row a namespace that has memories, or had: the row that every write to them changes, and so the order of their revisions.
CREATE TABLE memory_space (
  -- Never used again.
  space_id INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  -- Of its vectors: 0 until it is fixed; and how they are compared (sfm.v1.Distance).
  dimension INTEGER NOT NULL,
  distance INTEGER NOT NULL,
  -- The newest revision that was given.
  revision INTEGER NOT NULL,
  -- Rows that are not deleted, those with a vector, and the bytes of their payloads; and rows that are.
  memories INTEGER NOT NULL,
  vectors INTEGER NOT NULL,
  payload_bytes INTEGER NOT NULL,
  tombstones INTEGER NOT NULL,
  create_time_us INTEGER NOT NULL,
  update_time_us INTEGER NOT NULL,
  -- How many memories it may have, 0: any number; and what becomes of those beyond (sfm.v1.MemoryLimitPolicy).
  memories_max INTEGER NOT NULL,
  limit_policy INTEGER NOT NULL,
  UNIQUE (tenant, name)
);

-- One memory, or what is left of one. `digest` is of the payload; empty where nothing is left. `payload` and `vector` are last, so
-- that the rest is read without them.
CREATE TABLE memory (
  memory_id INTEGER PRIMARY KEY,
  space_id INTEGER NOT NULL,
  key TEXT NOT NULL,
  revision INTEGER NOT NULL,
  create_time_us INTEGER NOT NULL,
  update_time_us INTEGER NOT NULL,
  expire_time_us INTEGER NOT NULL,
  delete_time_us INTEGER NOT NULL,
  memory_type TEXT NOT NULL,
  importance REAL NOT NULL,
  coordinates INTEGER NOT NULL,
  c0 REAL, c1 REAL, c2 REAL, c3 REAL, c4 REAL, c5 REAL, c6 REAL, c7 REAL,
  digest BLOB NOT NULL,
  payload BLOB NOT NULL,
  vector BLOB,
  UNIQUE (space_id, key)
);
-- What is listed by, and what is asked for in the order of the writes.
CREATE UNIQUE INDEX memory_revision ON memory (space_id, revision);
CREATE INDEX memory_age ON memory (space_id, create_time_us, key);
CREATE INDEX memory_importance ON memory (space_id, importance, key);
CREATE INDEX memory_type ON memory (space_id, memory_type, key);
CREATE INDEX memory_place ON memory (space_id, coordinates, c0, c1, c2) WHERE coordinates > 0;
-- What comes to its end: for the sweeper.
CREATE INDEX memory_expiry ON memory (expire_time_us) WHERE expire_time_us > 0 AND delete_time_us = 0;
CREATE INDEX memory_tombstone ON memory (delete_time_us) WHERE delete_time_us > 0;

-- How far an index has been fed with a namespace: it has all revisions up to this one. `name` is of one index, and of another one
-- once that was lost. Whose turn it is to feed it, and until when (by this machine's clock).
CREATE TABLE memory_index (
  space_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  revision INTEGER NOT NULL,
  owner TEXT NOT NULL,
  until_us INTEGER NOT NULL,
  PRIMARY KEY (space_id, name)
) WITHOUT ROWID;

-- When an index was last said to be there.
CREATE TABLE index_seen (
  name TEXT PRIMARY KEY,
  time_us INTEGER NOT NULL
) WITHOUT ROWID;

-- Memories whose vectors an index does not take, at these revisions, and why.
CREATE TABLE memory_refused (
  space_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  key TEXT NOT NULL,
  revision INTEGER NOT NULL,
  reason TEXT NOT NULL,
  time_us INTEGER NOT NULL,
  PRIMARY KEY (space_id, name, key)
) WITHOUT ROWID;

-- Namespaces that were dropped: what is left of them under these numbers is taken away little by little.
CREATE TABLE memory_dropped (
  space_id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  dimension INTEGER NOT NULL,
  distance INTEGER NOT NULL,
  drop_time_us INTEGER NOT NULL
);

-- Links from one memory to another. They are shown while both live, and go when one of them is gone for good.
CREATE TABLE memory_link (
  space_id INTEGER NOT NULL,
  source TEXT NOT NULL,
  link_type TEXT NOT NULL,
  target TEXT NOT NULL,
  weight REAL NOT NULL,
  create_time_us INTEGER NOT NULL,
  update_time_us INTEGER NOT NULL,
  PRIMARY KEY (space_id, source, link_type, target)
) WITHOUT ROWID;
CREATE INDEX memory_link_target ON memory_link (space_id, target, link_type, source);

-- What a prune would do, until it is done or its time is over. `facts` is JSON; `items` are keys and revisions, packed.
CREATE TABLE prune_plan (
  plan_id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  -- sfm.v1.PruneSource and PrunePlanState.
  source INTEGER NOT NULL,
  state INTEGER NOT NULL,
  create_time_us INTEGER NOT NULL,
  expire_time_us INTEGER NOT NULL,
  apply_time_us INTEGER NOT NULL,
  committer TEXT NOT NULL,
  order_id TEXT NOT NULL,
  facts TEXT NOT NULL,
  digest BLOB NOT NULL,
  order_digest BLOB NOT NULL,
  -- What the tokens that confirm it are made of.
  secret BLOB NOT NULL,
  items BLOB NOT NULL
);
CREATE INDEX prune_plan_age ON prune_plan (tenant, create_time_us, plan_id);
CREATE INDEX prune_plan_end ON prune_plan (expire_time_us);

-- What was pruned and undone, each row bound to the one before it by its hash. Never changed, never taken away.
CREATE TABLE prune_audit (
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  number INTEGER NOT NULL,
  time_us INTEGER NOT NULL,
  record TEXT NOT NULL,
  hash BLOB NOT NULL,
  PRIMARY KEY (tenant, namespace, number)
) WITHOUT ROWID;

-- What a prune deleted, while it can be undone: keys and the revisions of their deletions, packed.
CREATE TABLE prune_undo (
  undo_id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  namespace TEXT NOT NULL,
  number INTEGER NOT NULL,
  until_us INTEGER NOT NULL,
  -- The audit that undid it; 0: none did.
  undone_by INTEGER NOT NULL,
  items BLOB NOT NULL,
  UNIQUE (tenant, namespace, number)
);
CREATE INDEX prune_undo_end ON prune_undo (until_us);
