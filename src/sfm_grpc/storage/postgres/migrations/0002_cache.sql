-- Whether a cache may serve a namespace, in the row that every commit locks. The reasons are in schema.sql.

ALTER TABLE sfm.namespace
  ADD COLUMN cache_state smallint NOT NULL DEFAULT 0,
  ADD COLUMN cache_name text COLLATE "C" NOT NULL DEFAULT '',
  ADD COLUMN cache_epoch bigint NOT NULL DEFAULT 0,
  ADD COLUMN cache_held boolean NOT NULL DEFAULT false;
