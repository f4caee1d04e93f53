-- Appends to one shard, and what lets them in.

local i = 0
local function take()
    i = i + 1
    return A[i]
end

-- Keep the fence of a partition's writer. False if it has a newer one.
local function keep_fence(s, fence, now)
    local newest = tonumber(call('HGET', T .. 'p:' .. s, 'fence') or '0')
    if newest > tonumber(fence) then return false end
    if newest < tonumber(fence) then
        call('HSET', T .. 'p:' .. s, 'fence', fence)
        call('ZADD', T .. 'fences', now, s)
        call('SADD', T .. 'streams', (names(s)))
    end
    return true
end

-- What an append begins with: now, epoch, most entries, most bytes, how many of both other shards have.
local now, epoch, most, most_bytes, others, other_bytes, entries, bytes
local function begin()
    now, epoch, most, most_bytes = take(), take(), tonumber(take()), tonumber(take())
    others, other_bytes = tonumber(take()), tonumber(take())
    local shard = call('HMGET', T .. 'shard', 'entries', 'bytes')
    entries, bytes = tonumber(shard[1] or '0'), tonumber(shard[2] or '0')
end

-- One append: its partition, size, root, what it builds on, fence, flags (g: has a guard, s: starts guarding,
-- a: guards are asked from now on), the partition's number that its guard saw, and the entry. `ok` and its
-- number, or why not.
local function accept()
    local s, size, root, bases, fence, flags, seen, entry =
        take(), tonumber(take()), take(), take(), take(), take(), take(), take()
    local stream, name = names(s)
    local p = call('HMGET', T .. 'p:' .. s, 'n', 'fence', 'guarded', 'ver')
    if fence ~= '' and tonumber(p[2] or '0') > tonumber(fence) then return {'old', 0} end
    if entries + others >= most or bytes + other_bytes + size > most_bytes then return {'full', 0} end
    if p[3] == '1' and string.find(flags, 'g', 1, true) and p[4] ~= seen then return {'guard', 0} end
    for base in string.gmatch(bases, '%d+') do
        if call('HEXISTS', T .. 'e:' .. s, base) == 0 then return {'base', 0} end
    end
    local number = next_number()
    local seq = text(number)
    call('HSET', T .. 'e:' .. s, seq, entry)
    call('ZADD', T .. 'w:' .. s, seq, member(seq, text(size), now, epoch, '0', root, ''))
    if root ~= '' then call('ZADD', T .. 'r:' .. s, root, seq) end
    call('HSET', T .. 'p:' .. s, 'last', seq, 'ver', seq)
    if tonumber(p[1] or '0') == 0 then
        call('HSET', T .. 'p:' .. s, 'old', now, 'first', seq)
        call('ZADD', T .. 'due:' .. stream, now, name)
        call('SADD', T .. 'streams', stream)
    end
    count_waiting(s, 1, size, true)
    count(1, size)
    entries, bytes = entries + 1, bytes + size
    if fence ~= '' then keep_fence(s, fence, now) end
    if string.find(flags, '[sa]') then call('HSET', T .. 'p:' .. s, 'guarded', '1') end
    if string.find(flags, 's', 1, true) then
        discard_all(s)
        remove_copy(s)
    end
    return {'ok', number}
end

local function totals()
    local shard = call('HMGET', T .. 'shard', 'entries', 'bytes')
    return {shard[1] or '0', shard[2] or '0'}
end

-- name: append
begin()
local replies = {}
while i < #A do replies[#replies + 1] = accept() end
return {replies, totals()}
-- name: send_tally
-- The stream, the partition and key of a tally, its value, count and begin, and the append of its entry, which
-- is only made if the tally is just that, and which removes it.
local stream, field = take(), take()
local value, often, since = take(), take(), take()
local stored = call('HGET', T .. 'tally:' .. stream, field)
if not stored then return {{{'gone', 0}}, totals()} end
local t = cmsgpack.unpack(stored)
if t[3] ~= value or t[1] ~= often or t[2] ~= since then return {{{'gone', 0}}, totals()} end
begin()
local reply = accept()
if reply[1] == 'ok' then call('HDEL', T .. 'tally:' .. stream, field) end
return {{reply}, totals()}
-- name: refuse
-- A guard refused an append: now, when notes end, the partition and the number that was seen of it, notes.
local at, ends, s, seen = take(), take(), take(), take()
if call('HGET', T .. 'p:' .. s, 'ver') ~= seen then return 0 end
while i < #A do note(s, take(), take(), ends, at) end
has_changed(s)
return 1
-- name: raise_fence
-- now, partition, fence
if not keep_fence(A[2], A[3], A[1]) then return 0 end
return 1
-- name: view
-- A partition as a reader sees it: what is there, and the entries after the last that it has. The reader's
-- number, its last entry, the partition.
local seen, after, s = A[1], tonumber(A[2]), A[3]
local p = call('HMGET', T .. 'p:' .. s, 'ver', 'tok', 'cm', 'cu', 'guarded')
for n = 1, 5 do p[n] = p[n] or '' end
p[6] = call('HEXISTS', T .. 'p:' .. s, 'cb')
if p[1] == seen then return {p} end
local there = call('HKEYS', T .. 'e:' .. s)
local wanted = {}
for _, seq in ipairs(there) do
    if tonumber(seq) > after then wanted[#wanted + 1] = seq end
end
local found = {}
for n = 1, #wanted, 1000 do
    local some = call('HMGET', T .. 'e:' .. s, unpack(wanted, n, math.min(n + 999, #wanted)))
    for m, entry in ipairs(some) do found[#found + 1], found[#found + 2] = wanted[n + m - 1], entry end
end
return {
    p, call('ZRANGE', T .. 'w:' .. s, 0, -1), call('ZRANGE', T .. 'x:' .. s, 0, -1), there, found,
    call('HGETALL', T .. 'n:' .. s),
}
-- name: meet
return meet()
-- name: raise_numbers
raise_numbers(tonumber(A[1]))
return 1
-- name: totals
local c = call('HMGET', T .. 'shard', 'entries', 'bytes', 'copied', 'kept')
for n = 1, 4 do c[n] = c[n] or '0' end
return c
-- name: open
-- A new identity, the number of shards: what was kept of both before, if anything was.
call('HSETNX', T .. 'identity', 'id', A[1])
call('HSETNX', T .. 'identity', 'shards', A[2])
call('HSETNX', T .. 'identity', 'format', A[3])
return call('HMGET', T .. 'identity', 'id', 'shards', 'format')
