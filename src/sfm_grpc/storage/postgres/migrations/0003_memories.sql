-- Memories. The reasons are in schema.sql.

CREATE TABLE sfm.memory_space (
  space_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  dimension integer NOT NULL,
  distance smallint NOT NULL,
  revision bigint NOT NULL,
  memories bigint NOT NULL,
  vectors bigint NOT NULL,
  payload_bytes bigint NOT NULL,
  tombstones bigint NOT NULL,
  create_time_us bigint NOT NULL,
  update_time_us bigint NOT NULL,
  UNIQUE (tenant, name)
) WITH (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

CREATE TABLE sfm.memory (
  space_id bigint NOT NULL,
  revision bigint NOT NULL,
  create_time_us bigint NOT NULL,
  update_time_us bigint NOT NULL,
  expire_time_us bigint NOT NULL,
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
  coordinates smallint NOT NULL,
  key text COLLATE "C" NOT NULL,
  memory_type text COLLATE "C" NOT NULL,
  digest bytea NOT NULL,
  payload bytea NOT NULL,
  vector bytea,
  PRIMARY KEY (space_id, key)
) WITH (
  autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
  toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_threshold = 1000
);
ALTER TABLE sfm.memory ALTER COLUMN payload SET STORAGE EXTERNAL, ALTER COLUMN vector SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX memory_revision ON sfm.memory (space_id, revision);
CREATE INDEX memory_age ON sfm.memory (space_id, create_time_us, key);
CREATE INDEX memory_importance ON sfm.memory (space_id, importance, key);
CREATE INDEX memory_type ON sfm.memory (space_id, memory_type, key);
CREATE INDEX memory_place ON sfm.memory (space_id, coordinates, c0, c1, c2) WHERE coordinates > 0;
CREATE INDEX memory_expiry ON sfm.memory (expire_time_us) WHERE expire_time_us > 0 AND delete_time_us = 0;
CREATE INDEX memory_tombstone ON sfm.memory (delete_time_us) WHERE delete_time_us > 0;

CREATE TABLE sfm.memory_index (
  space_id bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  revision bigint NOT NULL,
  owner text NOT NULL,
  until_us bigint NOT NULL,
  PRIMARY KEY (space_id, name)
) WITH (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);

ALTER TABLE sfm.request ADD COLUMN memories bytea NOT NULL DEFAULT '';
