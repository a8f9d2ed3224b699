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
