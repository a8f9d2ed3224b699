-- name: configure
-- What a session is told, once; it answers whether its commits are durable. That they are is held fast: a reload of the server's
-- configuration does not change what a session has set. No plan compiler: it would compile for longer than these statements take. A peer
-- that is gone without a word is noticed by Postgres too.
SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false),
  set_config('statement_timeout', %(statement_ms)s::text, false),
  set_config('lock_timeout', %(lock_ms)s::text, false),
  set_config('idle_in_transaction_session_timeout', '60000', false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('tcp_keepalives_idle', '30', false),
  set_config('tcp_keepalives_interval', '10', false),
  set_config('tcp_keepalives_count', '3', false),
  set_config('jit', 'off', false);

-- name: describe
-- What the server promises.
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('server_encoding'),
  current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit');

-- name: identify
-- This cluster, this database, and this line of its history: a standby that is promoted and a backup that is recovered begin another.
SELECT (SELECT system_identifier FROM pg_control_system())::text || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())::text
  || '/' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8);

-- name: list_unwritable
-- The tables that this user may not do everything with.
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace('sfm') AND relkind = 'r' AND relname <> 'migration'
  AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
    AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
ORDER BY relname;
