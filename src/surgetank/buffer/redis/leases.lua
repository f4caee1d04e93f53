-- Leases of one shard: who holds which partition, and what is read of it.

-- Whether a partition may be leased by these terms: 0 no, 1 yes, 2 only because that is forced.
local function due(s, t)
    local p = call('HMGET', T .. 'p:' .. s, 'n', 'b', 'old', 'nxt', 'lun', 'lat')
    local n, b = tonumber(p[1] or '0'), tonumber(p[2] or '0')
    if n == 0 then return 0 end
    local old, nxt = tonumber(p[3]), tonumber(p[4] or '0')
    local until_, at = tonumber(p[5] or '0'), tonumber(p[6] or '0')
    -- One that was taken in the future was taken before the clock was set back.
    if until_ > t.now and at <= t.now + t.step then return 0 end
    if t.force then return nxt > t.now and 2 or 1 end
    if nxt > t.now and nxt <= t.now + t.horizon then return 0 end
    if n >= t.entries or b >= t.bytes or old <= t.now - t.age or old > t.now + 1 then
        return nxt > t.now and 2 or 1
    end
    return 0
end

local function terms()
    return {
        now = tonumber(A[1]), step = tonumber(A[2]), horizon = tonumber(A[3]), force = A[4] == '1',
        entries = tonumber(A[5]), bytes = tonumber(A[6]), age = tonumber(A[7]),
    }
end

-- name: candidates
-- The terms, most, the stream, and names (none: all). Of those that may be leased the age and the name, those
-- that only force takes apart.
local t, most, stream = terms(), tonumber(A[8]), A[9]
local now, late = {}, {}
local function consider(name, old)
    local kind = due(stream .. NUL .. name, t)
    local list = kind == 1 and now or kind == 2 and late
    if list and #list < most then list[#list + 1] = {old, name} end
end
if A[10] == 'all' then
    local from = 0
    while #now < most do
        local some = call('ZRANGE', T .. 'due:' .. stream, from, from + 499, 'WITHSCORES')
        for n = 1, #some, 2 do consider(some[n], some[n + 1]) end
        if #some < 1000 then break end
        from = from + 500
    end
else
    for n = 11, #A do
        local old = call('ZSCORE', T .. 'due:' .. stream, A[n])
        if old then consider(A[n], old) end
    end
end
return {now, late}
-- name: lease
-- The terms, until when, the stream, the owner, and names. Of each that may still be leased its token and state.
local t, stream, owner = terms(), A[9], A[10]
local found = {}
for n = 11, #A do
    local s = stream .. NUL .. A[n]
    if due(s, t) > 0 then
        local token = text(next_number())
        call('HSET', T .. 'p:' .. s, 'tok', token, 'own', owner, 'lat', A[1], 'lun', A[8], 'ver', token)
        found[#found + 1] = {token, state(s)}
    end
end
return found
-- name: renew
-- now, until when, then partition and token of each lease: 1 for each that is still held.
local kept = {}
for n = 3, #A, 2 do
    if held(A[n], A[n + 1]) then
        call('HSET', T .. 'p:' .. A[n], 'lat', A[1], 'lun', A[2])
        kept[#kept + 1] = 1
    else
        kept[#kept + 1] = 0
    end
end
return kept
-- name: release
for n = 1, #A, 2 do
    if call('HGET', T .. 'p:' .. A[n], 'tok') == A[n + 1] then let_go(A[n]) end
end
return 1
-- name: sizes
-- Partition, after which number, and most: what waits.
return call('ZRANGEBYSCORE', T .. 'w:' .. A[1], '(' .. A[2], '+inf', 'LIMIT', 0, A[3])
-- name: read
-- Partition, first and last number: these entries, and those that they build on.
local s = A[1]
local waiting = call('ZRANGEBYSCORE', T .. 'w:' .. s, A[2], A[3])
local low
for _, m in ipairs(waiting) do
    local seq, _, _, _, _, root = fields(m)
    root = tonumber(root ~= '' and root or seq)
    if not low or root < low then low = root end
end
local found = {}
local function add(seq) found[#found + 1], found[#found + 2] = seq, call('HGET', T .. 'e:' .. s, seq) end
if low then
    for _, kind in ipairs({'d:', 'k:', 'x:'}) do
        for _, m in ipairs(call('ZRANGEBYSCORE', T .. kind .. s, text(low), A[3])) do
            add(string.match(m, '^%d+'))
        end
    end
    for _, m in ipairs(call('ZRANGEBYSCORE', T .. 'w:' .. s, text(low), A[3])) do add((fields(m))) end
end
return {waiting, found}
-- name: postpone
-- Partition, token, attempts, next attempt, failure, now
if not held(A[1], A[2]) then return 0 end
local p = T .. 'p:' .. A[1]
if (call('HGET', p, 'since') or '') == '' then call('HSET', p, 'since', A[6]) end
call('HSET', p, 'att', A[3], 'nxt', A[4], 'fail', A[5])
let_go(A[1])
local stream, name = names(A[1])
call('SADD', T .. 'failing:' .. stream, name)
return 1
-- name: retry_now
-- now, within how many seconds, how many at once, partition (empty: all), streams (none: all): how many
local streams = {unpack(A, 5)}
if #streams == 0 then streams = call('SMEMBERS', T .. 'streams') end
local woken, at_once = 0, tonumber(A[3])
for _, stream in ipairs(streams) do
    local waiting = A[4] ~= '' and {A[4]} or call('SMEMBERS', T .. 'failing:' .. stream)
    for _, name in ipairs(waiting) do
        local p = T .. 'p:' .. stream .. NUL .. name
        local f = call('HMGET', p, 'n', 'nxt')
        local nxt = tonumber(f[2] or '0')
        if tonumber(f[1] or '0') > 0 and nxt > 0 then
            woken = woken + 1
            if woken <= at_once then
                nxt = 0
            else
                nxt = math.min(nxt, tonumber(A[1]) + tonumber(A[2]) * math.random())
            end
            call('HSET', p, 'nxt', text(nxt))
        end
    end
end
return woken
