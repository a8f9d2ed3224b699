-- What all migrations together make, and why. Nothing runs this file: it is for people, and a test proves that the migrations
-- give exactly this, catalog by catalog. Whoever changes the schema adds a file to migrations/ and says the same here.
--
-- Everywhere:
-- - Times are microseconds since the Unix epoch, as in the API.
-- - Names are COLLATE "C": compared as bytes, listed in the order of their code points as every engine lists them, and their
--   indexes outlive an update of the machine's locales.
-- - JSON is text, not jsonb: it is given back letter by letter and never searched, and of what is damaged the rest can be told.
-- - No foreign keys: one write path writes all rows of a commit in one statement, and each would cost it a look-up and a lock.
-- - Autovacuum goes by numbers of dead rows or by small shares: work comes in small portions, however large a table is.

CREATE SCHEMA sfm;

-- Which steps were applied. A server serves when these are the ones it knows, no fewer and no more.
CREATE TABLE sfm.migration (
  number integer PRIMARY KEY,
  name text NOT NULL,
  -- Of the step's text: a released step never changes, and one that did is noticed.
  sha256 bytea NOT NULL,
  -- For people.
  applied_at timestamptz NOT NULL DEFAULT now()
);

-- One row a namespace: its head, the row that every commit changes. Locking it is what gives commits their order.
CREATE TABLE sfm.namespace (
  -- A short name for the other tables' keys. Never used again: a namespace is never deleted.
  namespace_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  -- The newest version, and the oldest that is kept.
  version bigint NOT NULL,
  oldest bigint NOT NULL,
  -- 63 random bits that each commit draws. What a process remembers of version 7 is of the commit that it saw; after a backup was
  -- restored there may be another version 7, and this tells them apart.
  commit_id bigint NOT NULL,
  -- The manifest: the keys that the newest version holds, in order, and beside each the version that put its numbers. It is the
  -- same as in the version's own row: one row answers what the head holds, even where the record of the version was damaged.
  keys text[] COLLATE "C" NOT NULL,
  put_versions bigint[] NOT NULL,
  -- Rises whenever versions are taken away. A restore compares it: its target cannot have gone unnoticed since it was looked at.
  compactions bigint NOT NULL,
  -- Whether a cache may serve it (model.CacheState): 0 drained, no lease of it stands; 1 on; 2 off, and its last leases are running
  -- out. A commit finds out in the very statement that locks the row: so nothing is filled that it has not seen, or that has not seen it.
  cache_state smallint NOT NULL DEFAULT 0,
  -- The one cache that may be filled while it is on: a Redis process (its run id) and the deployment's place in it.
  cache_name text COLLATE "C" NOT NULL DEFAULT '',
  -- Rises whenever it is turned on: who drains it finds out whether it was on again meanwhile.
  cache_epoch bigint NOT NULL DEFAULT 0,
  -- A person turned it off: nobody turns it on but a person.
  cache_held boolean NOT NULL DEFAULT false,
  -- How a namespace is found, and the order in which all are listed.
  UNIQUE (tenant, name)
) WITH (
  -- Half of each page is left free, so that the next head finds its place in the same page as the last. No index has a column
  -- that a commit changes, so such an update is HOT: no index is written, and the next reader takes the dead row away.
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

-- A key's kind (sfm.v1.MatrixKind), fixed by its first commit; it outlives the key's deletion and its versions.
CREATE TABLE sfm.rho_key (
  namespace_id bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  kind smallint NOT NULL,
  PRIMARY KEY (namespace_id, key)
);

-- One row a version: one commit. Never changed.
CREATE TABLE sfm.rho_version (
  namespace_id bigint NOT NULL,
  version bigint NOT NULL,
  commit_time_us bigint NOT NULL,
  committer text NOT NULL,
  -- JSON, an object of text.
  metadata text NOT NULL,
  -- 1 where every certificate of what it holds is valid, else 0.
  valid smallint NOT NULL,
  -- Which version it made the newest again; 0: none.
  restored_version bigint NOT NULL,
  -- JSON, a list of keys.
  changed_keys text NOT NULL,
  -- The manifest, as in sfm.namespace: all that it holds, what it carries along unchanged too. A row for each key of each version
  -- would be a hundred times as many rows as there are changes.
  keys text[] COLLATE "C" NOT NULL,
  put_versions bigint[] NOT NULL,
  PRIMARY KEY (namespace_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The numbers of one put. Named by namespace, key and the version that put them, and never changed; later versions that carry the
-- key along name them in their manifests.
CREATE TABLE sfm.rho_body (
  -- Fixed widths first: no byte is lost to alignment.
  namespace_id bigint NOT NULL,
  put_version bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  -- JSON; it has the digest of the numbers, too.
  certificate text NOT NULL,
  -- Of the numbers as they were put, written beside them: it tells damaged numbers from a damaged certificate, and numbers that
  -- memory holds need not be read.
  sha256 bytea NOT NULL,
  -- How they lie here: 0 whole, 1 the upper block triangle of a symmetric matrix, half the bytes; see packing.py.
  packing smallint NOT NULL,
  numbers bytea NOT NULL,
  PRIMARY KEY (namespace_id, key, put_version)
) WITH (
  -- Most of the disk is here, and whatever is not vacuumed is space that new numbers cannot use. So: after few dead rows, or the
  -- 40 MB that 20 000 TOAST rows of 2 kB are, and without pauses, or it would fall behind fast commits.
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_cost_delay = 0
);
-- Out of line, so that certificates are read without them; not compressed: random numbers do not get shorter, trying only costs.
ALTER TABLE sfm.rho_body ALTER COLUMN numbers SET STORAGE EXTERNAL;

-- One row a namespace that has memories, or had. Every write to them locks it: so revisions are given in the order of the commits,
-- and whoever has seen one has seen all before it. Beside sfm.namespace, so that memories and matrices do not wait for each other.
CREATE TABLE sfm.memory_space (
  space_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  -- Of its vectors: 0 until it is fixed; and how they are compared (sfm.v1.Distance).
  dimension integer NOT NULL,
  distance smallint NOT NULL,
  -- The newest revision that was given.
  revision bigint NOT NULL,
  -- Rows that are not deleted, those of them with a vector, and the bytes of their payloads; and rows that are deleted.
  memories bigint NOT NULL,
  vectors bigint NOT NULL,
  payload_bytes bigint NOT NULL,
  tombstones bigint NOT NULL,
  create_time_us bigint NOT NULL,
  update_time_us bigint NOT NULL,
  -- How many memories it may have, 0: any number; and what becomes of those beyond (sfm.v1.MemoryLimitPolicy).
  memories_max bigint NOT NULL DEFAULT 0,
  limit_policy smallint NOT NULL DEFAULT 1,
  UNIQUE (tenant, name)
) WITH (
  -- As sfm.namespace: an update finds its place in the same page, and touches no index.
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

-- One memory, or what is left of one.
CREATE TABLE sfm.memory (
  -- Fixed widths first: no byte is lost to alignment.
  space_id bigint NOT NULL,
  -- Of the last write. An index that follows goes on after the newest that it has seen.
  revision bigint NOT NULL,
  create_time_us bigint NOT NULL,
  update_time_us bigint NOT NULL,
  -- 0: never.
  expire_time_us bigint NOT NULL,
  -- 0: it lives. A tombstone is kept while it may be undeleted, and until the index has let go of it.
  delete_time_us bigint NOT NULL,
  importance double precision NOT NULL,
  c0 double precision,
  c1 double precision,
  c2 double precision,
  c3 double precision,
  c4 double precision,
  c5 double precision,
  c6 double precision,
  c7 double precision,
  -- How many of them are set.
  coordinates smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  memory_type text COLLATE "C" NOT NULL,
  -- SHA-256 of the payload; empty where nothing is left of it.
  digest bytea NOT NULL,
  -- JSON text, as bytes: it is given back as it came.
  payload bytea NOT NULL,
  -- float32, little-endian; NULL: it has none.
  vector bytea,
  PRIMARY KEY (space_id, key)
) WITH (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
  toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 1000
);
-- Not compressed: numbers do not get shorter, and short texts are not worth the time. A vector lies out of line where the row would be
-- large, so that lists read past it.
ALTER TABLE sfm.memory ALTER COLUMN payload SET STORAGE EXTERNAL, ALTER COLUMN vector SET STORAGE EXTERNAL;
-- What is listed by, and what is asked for in the order of the writes.
CREATE UNIQUE INDEX memory_revision ON sfm.memory (space_id, revision);
CREATE INDEX memory_age ON sfm.memory (space_id, create_time_us, key);
CREATE INDEX memory_update ON sfm.memory (space_id, update_time_us);
CREATE INDEX memory_importance ON sfm.memory (space_id, importance, key);
CREATE INDEX memory_type ON sfm.memory (space_id, memory_type, key);
CREATE INDEX memory_place ON sfm.memory (space_id, coordinates, c0, c1, c2) WHERE coordinates > 0;
-- What comes to its end: for the sweeper.
CREATE INDEX memory_expiry ON sfm.memory (expire_time_us) WHERE expire_time_us > 0 AND delete_time_us = 0;
CREATE INDEX memory_tombstone ON sfm.memory (delete_time_us) WHERE delete_time_us > 0;

-- How far an index has been fed with a namespace: it has all revisions up to this one. `name` is of one index, and of another one
-- once that was lost.
CREATE TABLE sfm.memory_index (
  space_id bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  revision bigint NOT NULL,
  -- Whose turn it is to feed it, and until when, by this database's clock; '' and 0: nobody's.
  owner text NOT NULL,
  until_us bigint NOT NULL,
  PRIMARY KEY (space_id, name)
) WITH (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

-- When an index was last said to be there, by this database's clock.
CREATE TABLE sfm.index_seen (
  name text COLLATE "C" PRIMARY KEY,
  time_us bigint NOT NULL
);

-- Memories whose vectors an index does not take, at these revisions, and why.
CREATE TABLE sfm.memory_refused (
  space_id bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  revision bigint NOT NULL,
  reason text NOT NULL,
  time_us bigint NOT NULL,
  PRIMARY KEY (space_id, name, key)
);

-- Namespaces that were dropped: what is left of them under these numbers is taken away little by little.
CREATE TABLE sfm.memory_dropped (
  space_id bigint PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  dimension integer NOT NULL,
  distance smallint NOT NULL,
  drop_time_us bigint NOT NULL
);

-- Links from one memory to another. They are shown while both live, and go when one of them is gone for good.
CREATE TABLE sfm.memory_link (
  space_id bigint NOT NULL,
  source text COLLATE "C" NOT NULL,
  link_type text COLLATE "C" NOT NULL,
  target text COLLATE "C" NOT NULL,
  weight double precision NOT NULL,
  create_time_us bigint NOT NULL,
  update_time_us bigint NOT NULL,
  PRIMARY KEY (space_id, source, link_type, target)
);
CREATE INDEX memory_link_target ON sfm.memory_link (space_id, target, link_type, source);

-- Mutations that succeeded, so that a retry gets the first answer again. Its key is what makes sure that one id commits once.
CREATE TABLE sfm.request (
  -- By name, not by namespace_id: it is looked for before anything else is known.
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  method text COLLATE "C" NOT NULL,
  request_id text COLLATE "C" NOT NULL,
  -- Of what was asked: the same id for something else is an error.
  content_digest bytea NOT NULL,
  -- The first answer.
  version bigint NOT NULL,
  commit_time_us bigint NOT NULL,
  receipt bytea NOT NULL,
  first_time_us bigint NOT NULL,
  -- What was told of memories (storage.memories.receipts_to_bytes); empty of a request that had none.
  memories bytea NOT NULL DEFAULT '',
  PRIMARY KEY (tenant, namespace, method, request_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
-- The oldest are forgotten first.
CREATE INDEX request_age ON sfm.request (first_time_us);

-- The outbox: what the rest of the world is to be told, written by the transaction of the commit.
CREATE TABLE sfm.event (
  -- (outbox.base + the transaction's id) << 16. A sequence would be drawn before the commit: a reader that saw 8 could see 7 appear later. Of
  -- transaction ids Postgres says which are still under way, so a reader stops before them and misses none; see list_events in
  -- reads.sql. The 16 bits are room for several events of one transaction.
  event_id bigint PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  topic text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  time_us bigint NOT NULL,
  -- JSON, an object.
  payload text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- One row: what transaction ids are counted from. 0, until a dump of one cluster is restored into another, whose transactions are numbered
-- lower: then `sfm migrate` raises it above the events there are.
CREATE TABLE sfm.outbox (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  base bigint NOT NULL
);
INSERT INTO sfm.outbox (base) VALUES (0);

-- How far the outbox was sent: a row for each place that events go to.
CREATE TABLE sfm.event_sink (
  name text COLLATE "C" PRIMARY KEY,
  -- It has all events up to this one.
  event_id bigint NOT NULL,
  -- Whose turn it is to send, and until when, by this database's clock; '' and 0: nobody's.
  owner text NOT NULL,
  until_us bigint NOT NULL,
  -- When it was last said to be in use: one that is no longer configured does not hold events back for ever.
  seen_us bigint NOT NULL,
  -- Events that were taken away before it got them.
  dropped bigint NOT NULL
) WITH (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

-- What a prune would do, until it is done or its time is over. `facts` is JSON; `items` are keys and revisions, packed.
CREATE TABLE sfm.prune_plan (
  plan_id text COLLATE "C" PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  -- sfm.v1.PruneSource and PrunePlanState.
  source smallint NOT NULL,
  state smallint NOT NULL,
  create_time_us bigint NOT NULL,
  expire_time_us bigint NOT NULL,
  apply_time_us bigint NOT NULL,
  committer text NOT NULL,
  order_id text NOT NULL,
  facts text NOT NULL,
  digest bytea NOT NULL,
  order_digest bytea NOT NULL,
  -- What the tokens that confirm it are made of.
  secret bytea NOT NULL,
  items bytea NOT NULL
);
CREATE INDEX prune_plan_age ON sfm.prune_plan (tenant, create_time_us, plan_id);
CREATE INDEX prune_plan_end ON sfm.prune_plan (expire_time_us);

-- What was pruned and undone, each row bound to the one before it by its hash. Never changed, never taken away.
CREATE TABLE sfm.prune_audit (
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  time_us bigint NOT NULL,
  record text NOT NULL,
  hash bytea NOT NULL,
  PRIMARY KEY (tenant, namespace, number)
);

-- What a prune deleted, while it can be undone: keys and the revisions of their deletions, packed.
CREATE TABLE sfm.prune_undo (
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  until_us bigint NOT NULL,
  -- The audit that undid it; 0: none did.
  undone_by bigint NOT NULL,
  items bytea NOT NULL,
  PRIMARY KEY (tenant, namespace, number)
);
CREATE INDEX prune_undo_end ON sfm.prune_undo (until_us);
