-- READ: which version is live; else plants a token, so that who reads the store now may fill. Not over a token that was planted just
-- now: under many readers nobody's would stand for long enough to fill with.
-- KEYS: control. ARGV: token, patience_ms, hygiene_ms. Returns {'live', version, manifest}
-- or {'miss', run id, planted, version, manifest, age in ms of what an expired entry holds ('' and 0 where there is none)};
-- planted: 1 yes, 0 no, -1 no, and nothing can be written here: a replica.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = redis.call('HMGET', KEYS[1], 'run', 'version', 'manifest', 'start', 'stop', 'fence', 'read')
if entry[1] and entry[1] ~= run then
  -- Another process wrote it: the past of this one, or a master that it copied. On a replica it stays, and means nothing.
  redis.pcall('DEL', KEYS[1])
  entry = {}
end
local version, start = tonumber(entry[2] or ''), tonumber(entry[4] or '')
if version and version >= tonumber(entry[6] or 0) then
  -- A clock that stepped back to before the lease began would make it last.
  if start <= now and now < tonumber(entry[5]) then
    return {'live', version, entry[3]}
  end
else
  version = nil
end
local ok, since = 0, now - tonumber(entry[7] or 0)
if since < 0 or since >= tonumber(ARGV[2]) then
  -- Nothing may be written (no memory, a replica): then nobody fills, and the miss is told all the same.
  local planted = redis.pcall('HSET', KEYS[1], 'run', run, 'reader', ARGV[1], 'read', now)
  if type(planted) == 'number' then
    ok = 1
    redis.pcall('PEXPIRE', KEYS[1], ARGV[3])
  elseif string.find(planted.err, 'READONLY') then
    ok = -1
  end
end
if version then
  return {'miss', run, ok, version, entry[3], now - start}
end
return {'miss', run, ok, 0, '', 0}
