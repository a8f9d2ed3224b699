-- ρ: versions, their numbers, remembered requests, the outbox. The reasons are in schema.sql, which says what all migrations
-- together make.

-- IF NOT EXISTS would ask for the right to create one even where it was made for this user before.
DO $$ BEGIN IF to_regnamespace('sfm') IS NULL THEN CREATE SCHEMA sfm; END IF; END $$;

CREATE TABLE sfm.migration (
  number integer PRIMARY KEY,
  name text NOT NULL,
  sha256 bytea NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE sfm.namespace (
  namespace_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  oldest bigint NOT NULL,
  commit_id bigint NOT NULL,
  keys text[] COLLATE "C" NOT NULL,
  put_versions bigint[] NOT NULL,
  compactions bigint NOT NULL,
  UNIQUE (tenant, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sfm.rho_key (
  namespace_id bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  kind smallint NOT NULL,
  PRIMARY KEY (namespace_id, key)
);

CREATE TABLE sfm.rho_version (
  namespace_id bigint NOT NULL,
  version bigint NOT NULL,
  commit_time_us bigint NOT NULL,
  committer text NOT NULL,
  metadata text NOT NULL,
  valid smallint NOT NULL,
  restored_version bigint NOT NULL,
  changed_keys text NOT NULL,
  keys text[] COLLATE "C" NOT NULL,
  put_versions bigint[] NOT NULL,
  PRIMARY KEY (namespace_id, version)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sfm.rho_body (
  namespace_id bigint NOT NULL,
  put_version bigint NOT NULL,
  key text COLLATE "C" NOT NULL,
  certificate text NOT NULL,
  sha256 bytea NOT NULL,
  packing smallint NOT NULL,
  numbers bytea NOT NULL,
  PRIMARY KEY (namespace_id, key, put_version)
) WITH (
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200,
  toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_cost_delay = 0, toast.autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE sfm.rho_body ALTER COLUMN numbers SET STORAGE EXTERNAL;

CREATE TABLE sfm.request (
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  method text COLLATE "C" NOT NULL,
  request_id text COLLATE "C" NOT NULL,
  content_digest bytea NOT NULL,
  version bigint NOT NULL,
  commit_time_us bigint NOT NULL,
  receipt bytea NOT NULL,
  first_time_us bigint NOT NULL,
  PRIMARY KEY (tenant, namespace, method, request_id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX request_age ON sfm.request (first_time_us);

CREATE TABLE sfm.event (
  event_id bigint PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  namespace text COLLATE "C" NOT NULL,
  topic text COLLATE "C" NOT NULL,
  version bigint NOT NULL,
  time_us bigint NOT NULL,
  payload text NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

CREATE TABLE sfm.outbox (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  base bigint NOT NULL
);
INSERT INTO sfm.outbox (base) VALUES (0);
