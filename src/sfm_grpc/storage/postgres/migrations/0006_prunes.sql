-- Prunes: how many memories a namespace may have, plans, what was done, and what can be undone.

ALTER TABLE sfm.memory_space ADD COLUMN memories_max bigint NOT NULL DEFAULT 0;
ALTER TABLE sfm.memory_space ADD COLUMN limit_policy smallint NOT NULL DEFAULT 1;

CREATE TABLE sfm.prune_plan (
  plan_id text COLLATE "C" PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
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
  secret bytea NOT NULL,
  items bytea NOT NULL
);
CREATE INDEX prune_plan_age ON sfm.prune_plan (tenant, create_time_us, plan_id);
CREATE INDEX prune_plan_end ON sfm.prune_plan (expire_time_us);

CREATE TABLE sfm.prune_audit (
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  time_us bigint NOT NULL,
  record text NOT NULL,
  hash bytea NOT NULL,
  PRIMARY KEY (tenant, namespace, number)
);

CREATE TABLE sfm.prune_undo (
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  number bigint NOT NULL,
  until_us bigint NOT NULL,
  undone_by bigint NOT NULL,
  items bytea NOT NULL,
  PRIMARY KEY (tenant, namespace, number)
);
CREATE INDEX prune_undo_end ON sfm.prune_undo (until_us);
