-- Acknowledging entries of one shard: each partition in one step.

local i = 0
local function take()
    i = i + 1
    return A[i]
end
local function take_list()
    local list = {}
    for n = 1, tonumber(take()) do list[n] = take() end
    return list
end

local function forget(s, prefix)
    for _, key in ipairs(call('HKEYS', T .. 'n:' .. s)) do
        if string.sub(key, 1, #prefix) == prefix then call('HDEL', T .. 'n:' .. s, key) end
    end
end

local function keep_largest(s, key, value, now)
    local stored = call('HGET', T .. 'n:' .. s, key)
    if stored then
        local _, before = noted(stored)
        if before >= value then return end
    end
    note(s, key, value, '', now)
end

-- Put a copy's change into effect. `c` is its mark, growth, whether it is cleared, use; puts and drops follow.
local function change_copy(s, mark, grown, clear, now, puts, drops)
    if clear == '1' then remove_copy(s) end
    for n = 1, #drops do call('HDEL', T .. 'c:' .. s, drops[n]) end
    for n = 1, #puts, 2 do call('HSET', T .. 'c:' .. s, puts[n], puts[n + 1]) end
    call('HINCRBY', T .. 'p:' .. s, 'cb', grown)
    call('HSET', T .. 'p:' .. s, 'cm', mark, 'cu', now)
    call('HINCRBY', T .. 'shard', 'copied', grown)
    call('ZADD', T .. 'copies', now, s)
    call('SADD', T .. 'streams', (names(s)))
end

-- name: ack
-- now, when passing notes end, whether what is acknowledged is kept; of each acknowledgement its partition, token,
-- first and last number, how many, its mark (epoch, number, digest), whether the lease is given back; lists of
-- notes: forgotten prefixes, largest ones, passing ones; what its copy becomes: `same`, `none`, or `change`, the
-- mark that it had, its new mark, growth, whether it is cleared, lists of parts that are put and dropped.
-- For each `ok`, `lost`, `copy` (it has changed) or `missing`.
local now, ends, keep = take(), take(), take() == '1'

local function remove(s, stream, members)
    local bytes = 0
    for _, m in ipairs(members) do
        local seq, size, _, epoch, _, _, _, file, values = fields(m)
        bytes = bytes + tonumber(size)
        call('ZREM', T .. 'w:' .. s, m)
        count_spilled(file, values, -1)
        -- Values in spill files are not kept: the files could not be deleted.
        if keep and file == '' then
            call('ZADD', T .. 'k:' .. s, seq, m .. ':' .. now)
            call('HINCRBY', T .. 'shard', 'kept', size)
        else
            bury(s, seq)
            call('HSET', T .. 'p:' .. s, 'ge', epoch, 'gs', seq)
        end
    end
    if keep and call('EXISTS', T .. 'k:' .. s) == 1 then call('ZADD', T .. 'kept', 'NX', now, s) end
    sweep(s)
    count_waiting(s, -#members, -bytes)
    count(-#members, -bytes)
end

local function acknowledge()
    local s, token, first, last, expected = take(), take(), take(), take(), tonumber(take())
    local epoch, seq, digest, release = take(), take(), take(), take()
    local forgotten, largest, passing = take_list(), take_list(), take_list()
    local copy, had, mark, grown, clear = take(), take(), take(), take(), take()
    local puts, drops = take_list(), take_list()
    if not held(s, token) then return 'lost' end
    local members = expected > 0 and call('ZRANGEBYSCORE', T .. 'w:' .. s, first, last) or {}
    if #members ~= expected then return 'missing' end
    if copy == 'change' and (call('HGET', T .. 'p:' .. s, 'cm') or '') ~= had then return 'copy' end
    local stream, name = names(s)
    if expected > 0 then
        remove(s, stream, members)
        call('HSET', T .. 'p:' .. s, 'me', epoch, 'ms', seq, 'md', digest, 'mt', now,
            'att', '0', 'nxt', '0', 'since', '', 'fail', '')
        call('ZADD', T .. 'marks', now, s)
        call('SREM', T .. 'failing:' .. stream, name)
    end
    for _, prefix in ipairs(forgotten) do forget(s, prefix) end
    for n = 1, #largest, 2 do keep_largest(s, largest[n], largest[n + 1], now) end
    for n = 1, #passing, 2 do note(s, passing[n], passing[n + 1], ends, now) end
    if copy == 'none' then remove_copy(s) end
    if copy == 'change' then change_copy(s, mark, grown, clear, now, puts, drops) end
    if release == '1' then let_go(s) end
    has_changed(s)
    return 'ok'
end

local replies = {}
while i < #A do replies[#replies + 1] = acknowledge() end
return replies
-- name: keep_copy (grows)
-- now, partition, token and mark that were seen ("-" and "+mark": none, or this one), its new mark, growth, whether it
-- is cleared, lists: parts that are put and dropped, notes
local at, s, token, had = take(), take(), take(), take()
local mark, grown, clear = take(), take(), take()
local puts, drops, notes = take_list(), take_list(), take_list()
local p = call('HMGET', T .. 'p:' .. s, 'n', 'tok', 'cm')
local there = p[3] and '+' .. p[3] or '-'
local busy = tonumber(p[1] or '0') > 0 or call('ZCARD', T .. 'x:' .. s) > 0
if busy or (p[2] or '0') ~= token or there ~= had then return 0 end
change_copy(s, mark, grown, clear, at, puts, drops)
for n = 1, #notes, 2 do note(s, notes[n], notes[n + 1], '', at) end
has_changed(s)
return 1
-- name: copied
-- Partition, the mark that was seen, and keys of parts (none: the names of all parts). Empty where it has changed.
local seen = call('HGET', T .. 'p:' .. A[1], 'cm')
if seen ~= A[2] then return {} end
if #A == 2 then return call('HKEYS', T .. 'c:' .. A[1]) end
local found = {}
for n = 3, #A do
    local part = call('HGET', T .. 'c:' .. A[1], A[n])
    if part then found[#found + 1], found[#found + 2] = A[n], part end
end
return found
-- name: use_copy
if call('HEXISTS', T .. 'p:' .. A[2], 'cb') == 1 then
    call('HSET', T .. 'p:' .. A[2], 'cu', A[1])
    call('ZADD', T .. 'copies', A[1], A[2])
end
return 1
-- name: drop_copies
-- Of each partition and the mark that it has ("*": any). How many went.
local gone = 0
for n = 1, #A, 2 do
    local mark = call('HGET', T .. 'p:' .. A[n], 'cm')
    if mark and (A[n + 1] == '*' or A[n + 1] == '+' .. mark) then
        gone = gone + remove_copy(A[n])
        has_changed(A[n])
    end
end
return gone
-- name: copies
-- Partitions that have a copy, when it was of use, its bytes and its mark.
local found = {}
local all = call('ZRANGE', T .. 'copies', 0, -1, 'WITHSCORES')
for n = 1, #all, 2 do
    local p = call('HMGET', T .. 'p:' .. all[n], 'cb', 'cm')
    found[#found + 1] = {all[n], all[n + 1], p[1], p[2]}
end
return found
-- name: copies_held
return {call('ZCARD', T .. 'copies'), tonumber(call('HGET', T .. 'shard', 'copied') or '0')}
