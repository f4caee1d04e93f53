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

-- What an append begins with: now, epoch, most entries, most bytes, how many of both other shards have. What the
-- shard counts is read once here, and written once in `finish`.
local now, epoch, most, most_bytes, others, other_bytes, entries, bytes, ticks
local discarded = false
local function begin()
    now, epoch, most, most_bytes = take(), take(), tonumber(take()), tonumber(take())
    others, other_bytes = tonumber(take()), tonumber(take())
    local shard = call('HMGET', T .. 'shard', 'entries', 'bytes', 'last')
    entries, bytes = tonumber(shard[1] or '0'), tonumber(shard[2] or '0')
    ticks = math.max(tick() - 1, tonumber(shard[3] or '0'))
end

-- One append: its partition, size, root, what it builds on, fence, tenant (empty: not known), flags (g: has a guard, s:
-- starts guarding, a: guards are asked from now on), the partition's number that its guard saw, and the entry. `ok` and its
-- number, or why not.
local added, added_bytes = 0, 0
local function accept()
    local s, bytes_there, root, bases, fence, tenant, flags, seen, entry = unpack(A, i + 1, i + 9)
    i = i + 9
    local size = tonumber(bytes_there)
    local stream, name = names(s)
    local p = T .. 'p:' .. s
    local known = call('HMGET', p, 'n', 'b', 'fence', 'guarded', 'ver', 'lun', 'nxt', 'ten', 'sp')
    if fence ~= '' and tonumber(known[3] or '0') > tonumber(fence) then return {'old', 0} end
    if entries + added + others >= most or bytes + added_bytes + other_bytes + size > most_bytes then
        return {'full', 0}
    end
    if known[4] == '1' and string.find(flags, 'g', 1, true) and known[5] ~= seen then return {'guard', 0} end
    if bases ~= '' then
        local spilled = tonumber(known[9] or '0')
        for base in string.gmatch(bases, '%d+') do
            if tonumber(base) <= spilled or call('HEXISTS', T .. 'e:' .. s, base) == 0 then return {'base', 0} end
        end
    end
    ticks = ticks + 1
    local number = ticks * SHARDS + SHARD
    local seq = text(number)
    call('HSET', T .. 'e:' .. s, seq, entry)
    call('ZADD', T .. 'w:' .. s, seq, member(seq, bytes_there, now, epoch, '0', root, ''))
    if root ~= '' then call('ZADD', T .. 'r:' .. s, root, seq) end
    local n, b = tonumber(known[1] or '0'), tonumber(known[2] or '0')
    if n == 0 then
        call('HSET', p, 'n', '1', 'b', bytes_there, 'last', seq, 'ver', seq, 'old', now, 'first', seq)
        call('ZADD', T .. 'due:' .. stream, now, name)
        call('SADD', T .. 'streams', stream)
        if (known[6] or '0') == '0' and (known[7] or '0') == '0' then
            call('ZADD', ready_of(stream, known[8] or ''), now, name)
            call('ZADD', T .. 'tenants:' .. stream, 'LT', now, known[8] or '')
        else
            enlist(s)
        end
    else
        call('HSET', p, 'n', text(n + 1), 'b', text(b + size), 'last', seq, 'ver', seq)
    end
    call('HINCRBY', T .. 'st:' .. stream, 'entries', 1)
    call('HINCRBY', T .. 'st:' .. stream, 'bytes', bytes_there)
    added, added_bytes = added + 1, added_bytes + size
    if tenant ~= '' and tenant ~= known[8] then give_to(s, tenant) end
    if fence ~= '' then keep_fence(s, fence, now) end
    if flags ~= '' and flags ~= 'g' and string.find(flags, '[sa]') then call('HSET', p, 'guarded', '1') end
    if flags ~= '' and flags ~= 'g' and string.find(flags, 's', 1, true) then
        discard_all(s)
        remove_copy(s)
        discarded = true
    end
    return {'ok', number}
end

local function finish()
    if discarded then -- which counted out what was parked
        local shard = call('HMGET', T .. 'shard', 'entries', 'bytes')
        entries, bytes = tonumber(shard[1] or '0'), tonumber(shard[2] or '0')
    end
    local held, held_bytes = text(entries + added), text(bytes + added_bytes)
    if added > 0 then
        call('HSET', T .. 'shard', 'entries', held, 'bytes', held_bytes, 'last', text(ticks))
    end
    return {held, held_bytes}
end

-- name: append (grows)
begin()
local replies = {}
while i < #A do replies[#replies + 1] = accept() end
return {replies, finish()}
-- name: send_tally (grows)
-- The stream, the partition and key of a tally, its value, count and begin, and the append of its entry, which
-- is only made if the tally is just that, and which removes it.
local stream, field = take(), take()
local value, often, since = take(), take(), take()
local stored = call('HGET', T .. 'tally:' .. stream, field)
if not stored then return {{{'gone', 0}}, {}} end
local t = cmsgpack.unpack(stored)
if t[3] ~= value or t[1] ~= often or t[2] ~= since then return {{{'gone', 0}}, {}} end
begin()
local reply = accept()
if reply[1] == 'ok' then call('HDEL', T .. 'tally:' .. stream, field) end
return {{reply}, finish()}
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
