-- Leases of one shard: who holds which partition, and what is read of it.

-- Whether a partition may be leased by these terms: 0 no, 1 yes, 2 only because that is forced; and what is known of it.
local function due(s, t)
    local p = call('HMGET', T .. 'p:' .. s, 'n', 'b', 'old', 'nxt', 'lun', 'lat', 'ten')
    local n, b = tonumber(p[1] or '0'), tonumber(p[2] or '0')
    if n == 0 then return 0 end
    local old, nxt = tonumber(p[3]), tonumber(p[4] or '0')
    local until_, at = tonumber(p[5] or '0'), tonumber(p[6] or '0')
    -- One that was taken in the future was taken before the clock was set back.
    if until_ > t.now and at <= t.now + t.step then return 0 end
    if t.force then return nxt > t.now and 2 or 1, p end
    if nxt > t.now and nxt <= t.now + t.horizon then return 0 end
    if n >= t.entries or b >= t.bytes or old <= t.now - t.age or old > t.now + 1 then
        return nxt > t.now and 2 or 1, p
    end
    return 0
end

local function terms()
    return {
        now = tonumber(A[1]), step = tonumber(A[2]), horizon = tonumber(A[3]), force = A[4] == '1',
        entries = tonumber(A[5]), bytes = tonumber(A[6]), age = tonumber(A[7]),
    }
end

-- Names of a tenant that are ready, oldest first, one at each call.
local function ready_names(stream, tenant, at_once)
    local from, some, n = 0, {}, 0
    return function()
        if n == #some then
            some, n = call('ZRANGE', ready_of(stream, tenant), from, from + at_once - 1), 0
            from = from + #some
        end
        n = n + 1
        return some[n]
    end
end

-- name: candidates
-- The terms, most, how many entries and bytes are enough, of each at most so many, the stream, and names (none: all). Of those that may be leased
-- the age, the name, the tenant, entries and bytes; those that only force takes apart; and whether there may be more.
-- Tenants take turns.
local t, most, enough, enough_bytes = terms(), tonumber(A[8]), tonumber(A[9]), tonumber(A[10])
local share, share_bytes, stream = tonumber(A[11]), tonumber(A[12]), A[13]
local now, late, entries, bytes = {}, {}, 0, 0
local function is_full() return #now >= most or entries >= enough or bytes >= enough_bytes end
local function consider(name)
    local kind, p = due(stream .. NUL .. name, t)
    local list = kind == 1 and now or kind == 2 and late
    if not list or #list >= most then return false end
    list[#list + 1] = {p[3], name, p[7] or '', math.min(share, tonumber(p[1])), math.min(share_bytes, tonumber(p[2]))}
    if kind == 1 then entries, bytes = entries + list[#list][4], bytes + list[#list][5] end
    return kind == 1
end
if A[14] ~= 'all' then
    for n = 15, #A do consider(A[n]) end
    return {now, late, 0}
end
local away = T .. 'away:' .. stream
for _, name in ipairs(call('ZRANGEBYSCORE', away, '-inf', A[1], 'LIMIT', 0, 1000)) do
    enlist(stream .. NUL .. name, t.now)
end
local turns = {}
for _, tenant in ipairs(call('ZRANGE', T .. 'tenants:' .. stream, 0, 4 * most - 1)) do
    turns[#turns + 1] = tenant
end
local at_once = math.min(500, math.max(4, math.ceil(most / math.max(1, #turns))))
for n, tenant in ipairs(turns) do turns[n] = ready_names(stream, tenant, at_once) end
while #turns > 0 and not is_full() do
    local left = {}
    for _, next_name in ipairs(turns) do
        if is_full() then break end
        local name = next_name()
        while name and not consider(name) do name = next_name() end
        if name then left[#left + 1] = next_name end
    end
    turns = left
end
local more = is_full() and 1 or 0
if more == 0 then
    -- Those that force takes; and those whose time is so far ahead that the clock was set back since.
    local from = t.force and '-inf' or text(t.now + t.step)
    for _, name in ipairs(call('ZRANGEBYSCORE', away, from, '+inf', 'LIMIT', 0, math.max(500, 2 * most))) do consider(name) end
end
return {now, late, more}
-- name: lease
-- The terms, until when, the stream, the owner, and names. Of each that may still be leased its token and state.
local t, stream, owner = terms(), A[9], A[10]
local found = {}
for n = 11, #A do
    local s = stream .. NUL .. A[n]
    if due(s, t) > 0 then
        local token = text(next_number())
        call('HSET', T .. 'p:' .. s, 'tok', token, 'own', owner, 'lat', A[1], 'lun', A[8], 'ver', token)
        enlist(s)
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
        enlist(A[n])
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
            enlist(stream .. NUL .. name)
        end
    end
end
return woken
