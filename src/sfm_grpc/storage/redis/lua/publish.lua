#!lua flags=allow-oom
-- PUBLISH: fences a committed version before it is told to anyone, and makes it live where its writer's token still stands.
-- KEYS: control. ARGV: token, registered run id, version, manifest, may_fill 0|1, lease_ms, hygiene_ms.
-- Returns {'ok', manifest that it dropped or replaced, filled 0|1}: only that means fenced; or {why not}. Idempotent.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
if run ~= ARGV[2] then
  return {'foreign'}
end
local entry = redis.call('HMGET', KEYS[1], 'run', 'version', 'manifest', 'fence', 'writer', 'wrote')
if entry[1] and entry[1] ~= run then
  redis.call('DEL', KEYS[1])
  entry = {}
end
local version, held = tonumber(ARGV[3]), tonumber(entry[2] or '')
local fence = math.max(version, tonumber(entry[4] or 0))
redis.call('HSET', KEYS[1], 'run', run, 'fence', string.format('%.0f', fence))
local gone = ''
if held and held < version then
  redis.call('HDEL', KEYS[1], 'version', 'manifest', 'start', 'stop')
  gone, held = entry[3], nil
end
local filled = 0
if ARGV[5] == '1' and entry[5] == ARGV[1] and version >= fence and (not held or held <= version) then
  local start = tonumber(entry[6])
  redis.call('HSET', KEYS[1], 'version', ARGV[3], 'manifest', ARGV[4], 'start', start, 'stop', start + ARGV[6])
  redis.call('HDEL', KEYS[1], 'writer', 'wrote')
  filled = 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return {'ok', gone, filled}
