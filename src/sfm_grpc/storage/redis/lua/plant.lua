-- PLANT: a writer's token, before its transaction is sent; and whether its expected version has been overtaken already.
-- KEYS: control. ARGV: token, expected version (-1: any), hygiene_ms. Returns {run id, live version above the expected one, or 0}.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = redis.call('HMGET', KEYS[1], 'run', 'version', 'start', 'stop', 'fence')
if entry[1] and entry[1] ~= run then
  redis.call('DEL', KEYS[1])
  entry = {}
end
local version, expected = tonumber(entry[2] or ''), tonumber(ARGV[2])
if version and expected >= 0 and version > expected and version >= tonumber(entry[5] or 0)
  and tonumber(entry[3]) <= now and now < tonumber(entry[4]) then
  return {run, version}
end
redis.call('HSET', KEYS[1], 'run', run, 'writer', ARGV[1], 'wrote', now)
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {run, 0}
