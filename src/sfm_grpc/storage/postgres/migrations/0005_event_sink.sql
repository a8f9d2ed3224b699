-- How far the outbox was sent, and to whom. The reasons are in schema.sql.

CREATE TABLE sfm.event_sink (
  name text COLLATE "C" PRIMARY KEY,
  event_id bigint NOT NULL,
  owner text NOT NULL,
  until_us bigint NOT NULL,
  seen_us bigint NOT NULL,
  dropped bigint NOT NULL
) WITH (
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000
);
