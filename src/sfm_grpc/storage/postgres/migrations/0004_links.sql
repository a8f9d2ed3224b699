-- Links, dropped namespaces, and what is known of indexes. The reasons are in schema.sql.

CREATE TABLE sfm.index_seen (
  name text COLLATE "C" PRIMARY KEY,
  time_us bigint NOT NULL
);

CREATE TABLE sfm.memory_refused (
  space_id bigint NOT NULL,
  name text COLLATE "C" NOT NULL,
  key text COLLATE "C" NOT NULL,
  revision bigint NOT NULL,
  reason text NOT NULL,
  time_us bigint NOT NULL,
  PRIMARY KEY (space_id, name, key)
);

CREATE TABLE sfm.memory_dropped (
  space_id bigint PRIMARY KEY,
  tenant text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  dimension integer NOT NULL,
  distance smallint NOT NULL,
  drop_time_us bigint NOT NULL
);

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

CREATE INDEX memory_update ON sfm.memory (space_id, update_time_us);
