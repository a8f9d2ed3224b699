-- name: configure
-- What a session is told, once. No plan compiler: it would compile for longer than these statements take.
SELECT set_config('statement_timeout', %(statement_ms)s::text, false),
  set_config('lock_timeout', %(lock_ms)s::text, false),
  set_config('idle_in_transaction_session_timeout', '60000', false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('jit', 'off', false);

-- name: describe
-- What the server promises.
SELECT pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('server_encoding'),
  current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit');
