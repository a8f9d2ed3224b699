-- FILL: makes a version live that was read from the store after the token was planted. The lease runs from then, not from now.
-- KEYS: control. ARGV: token, run id, version, manifest, lease_ms, hygiene_ms. Returns {'ok', manifest that it replaced} or {why not}.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if run ~= ARGV[2] then
  return {'foreign'}
end
local entry = redis.call('HMGET', KEYS[1], 'run', 'reader', 'read', 'fence', 'version', 'manifest')
if entry[1] ~= run or entry[2] ~= ARGV[1] then
  return {'token'}
end
local version = tonumber(ARGV[3])
if version < tonumber(entry[4] or 0) or version < tonumber(entry[5] or 0) then
  return {'older'}
end
local start = tonumber(entry[3])
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'manifest', ARGV[4], 'start', start, 'stop', start + ARGV[5])
redis.call('HDEL', KEYS[1], 'reader', 'read')
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return {'ok', entry[6] or ''}
