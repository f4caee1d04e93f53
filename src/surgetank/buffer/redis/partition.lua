-- Partitions of a shard: what is kept of each, and what is counted. All scripts of the buffer begin with it.
--
-- Of the partition `s` (its stream, NUL, its name) there are
--   p:s  its state (hash): n and b, entries and bytes that wait; old and first, of the oldest of them; last, of
--        the newest; tok own lat lun, its lease; att nxt since fail, its attempts; guarded; fence; sp, the newest entry that was spilled; ver, a number
--        that grows with each change; me ms md mt, its mark; ge gs, the last acknowledged entry that is gone;
--        cm cb cu, mark, bytes and last use of its copy; ten, its tenant
--   e:s  entries by their numbers (hash), also those that are not waiting any more and that others build on
--   w:s  those that wait, by number: number:size:accepted at:epoch:replays:root:parked id:spill file:its values there
--   x:s  those that are parked, by number: the same
--   k:s  those that were acknowledged and are kept: the same, and when
--   d:s  those that only others need, by number
--   r:s  of each that builds on others, the oldest that it needs
--   n:s  notes (hash): when it ends|value      c:s  parts of its copy (hash): checksum|value
-- Of the shard: `shard` (hash: last number, entries, bytes, copied, kept, spilled), `spilled` (hash: values in each
-- spill file), `closed` (files that get no more), `streams` (set), and by stream `due:`
-- (names by the age of what waits), `failing:` (names), `st:` (hash: entries, bytes, parked). Those that wait are, for who
-- leases, also either in `ready:` of their stream and tenant (names by age) or, while they are leased or postponed, in
-- `away:` (names by when that ends); `tenants:` has the tenants that have a ready one, by the age of the oldest.
local NUL = '\0'
local function has_changed(s) call('HSET', T .. 'p:' .. s, 'ver', text(next_number())) end

local function names(s)
    local at = string.find(s, NUL, 1, true)
    return string.sub(s, 1, at - 1), string.sub(s, at + 1)
end

-- number, size, accepted at, epoch, replays, root, parked id, spill file, how many values are there
local function fields(member)
    return string.match(member, '^(%d+):(%d+):([^:]+):(%d+):(%d+):(%d*):(%d*):(%d*):(%d*)')
end

local function member(seq, size, at, epoch, replays, root, id, file, spilled)
    return seq .. ':' .. size .. ':' .. at .. ':' .. epoch .. ':' .. replays .. ':' .. root .. ':' .. id .. ':' ..
        (file or '') .. ':' .. (spilled or '')
end

-- Count the values that an entry has in a spill file: in, or (-1) out when it goes for good. The last one to go lets
-- the file be deleted.
local function count_spilled(file, values, sign)
    if file ~= '' then
        call('HINCRBY', T .. 'spilled', file, text(sign * tonumber(values)))
        call('HINCRBY', T .. 'shard', 'spilled', text(sign))
    end
end

-- Count entries and bytes that the shard holds, waiting or parked.
local function count(entries, bytes)
    if entries ~= 0 then call('HINCRBY', T .. 'shard', 'entries', text(entries)) end
    if bytes ~= 0 then call('HINCRBY', T .. 'shard', 'bytes', text(bytes)) end
end

local function ready_of(stream, tenant) return T .. 'ready:' .. stream .. NUL .. tenant end

-- Whether a tenant has a ready one, and how old that is.
local function order_tenant(stream, tenant)
    local oldest = call('ZRANGE', ready_of(stream, tenant), 0, 0, 'WITHSCORES')[2]
    if oldest then
        call('ZADD', T .. 'tenants:' .. stream, oldest, tenant)
    else
        call('ZREM', T .. 'tenants:' .. stream, tenant)
    end
end

-- Put a partition where who leases finds it, after its lease, its attempts or what waits has changed. `now`, if given:
-- what ended before is over.
local function enlist(s, now)
    local stream, name = names(s)
    local p = call('HMGET', T .. 'p:' .. s, 'n', 'old', 'nxt', 'lun', 'ten')
    local tenant, away = p[5] or '', T .. 'away:' .. stream
    local held_until, next_at = tonumber(p[4] or '0'), tonumber(p[3] or '0')
    if now and held_until <= now then held_until = 0 end
    if now and next_at <= now then next_at = 0 end
    local ends = held_until > 0 and held_until or next_at
    if tonumber(p[1] or '0') == 0 then
        call('ZREM', away, name)
        call('ZREM', ready_of(stream, tenant), name)
    elseif ends > 0 then
        call('ZADD', away, text(ends), name)
        call('ZREM', ready_of(stream, tenant), name)
    else
        call('ZREM', away, name)
        call('ZADD', ready_of(stream, tenant), p[2], name)
    end
    order_tenant(stream, tenant)
end

-- Whose partition it is from now on.
local function give_to(s, tenant)
    local stream, name = names(s)
    local before = call('HGET', T .. 'p:' .. s, 'ten') or ''
    if before == tenant then return end
    call('ZREM', ready_of(stream, before), name)
    order_tenant(stream, before)
    call('HSET', T .. 'p:' .. s, 'ten', tenant)
    enlist(s)
end

-- Count what waits in a partition. Its oldest and newest entry are looked up unless they are given.
local function count_waiting(s, entries, bytes, head)
    local stream, name = names(s)
    local p = T .. 'p:' .. s
    local n = call('HINCRBY', p, 'n', text(entries))
    call('HINCRBY', p, 'b', text(bytes))
    call('HINCRBY', T .. 'st:' .. stream, 'entries', text(entries))
    call('HINCRBY', T .. 'st:' .. stream, 'bytes', text(bytes))
    if n == 0 then
        call('HSET', p, 'old', '', 'first', '0', 'last', '0')
        call('ZREM', T .. 'due:' .. stream, name)
    elseif not head then
        local first = call('ZRANGE', T .. 'w:' .. s, 0, 0)[1]
        local last = call('ZRANGE', T .. 'w:' .. s, -1, -1)[1]
        local seq, _, at = fields(first)
        call('HSET', p, 'old', at, 'first', seq, 'last', (fields(last)))
        call('ZADD', T .. 'due:' .. stream, at, name)
    end
    enlist(s)
end

-- Delete what was acknowledged or discarded and what nothing builds on.
local function sweep(s)
    local needed = call('ZRANGE', T .. 'r:' .. s, 0, 0, 'WITHSCORES')[2]
    local gone = call('ZRANGEBYSCORE', T .. 'd:' .. s, '-inf', needed and ('(' .. needed) or '+inf')
    for _, seq in ipairs(gone) do
        call('HDEL', T .. 'e:' .. s, seq)
        call('ZREM', T .. 'd:' .. s, seq)
    end
end

local function bury(s, seq)
    call('ZREM', T .. 'r:' .. s, seq)
    call('ZADD', T .. 'd:' .. s, seq, seq)
end

-- Remove a parked entry for good; `x` is what is known of it.
local function discard(s, x)
    local seq, size, _, _, _, _, id, file, values = fields(x)
    local stream = names(s)
    count_spilled(file, values, -1)
    call('ZREM', T .. 'x:' .. s, x)
    call('HDEL', T .. 'parked', id)
    call('HINCRBY', T .. 'st:' .. stream, 'parked', -1)
    count(-1, -tonumber(size))
    bury(s, seq)
end

local function discard_all(s)
    for _, x in ipairs(call('ZRANGE', T .. 'x:' .. s, 0, -1)) do discard(s, x) end
    sweep(s)
end

local function remove_copy(s)
    local bytes = call('HGET', T .. 'p:' .. s, 'cb')
    if not bytes then return 0 end
    call('HDEL', T .. 'p:' .. s, 'cm', 'cb', 'cu')
    call('DEL', T .. 'c:' .. s)
    call('ZREM', T .. 'copies', s)
    call('HINCRBY', T .. 'shard', 'copied', text(-tonumber(bytes)))
    return 1
end

local function note(s, key, value, ends, now)
    call('HSET', T .. 'n:' .. s, key, ends .. '|' .. value)
    call('ZADD', T .. 'noted', now, s)
end

local function noted(stored)
    local at = string.find(stored, '|', 1, true)
    return string.sub(stored, 1, at - 1), string.sub(stored, at + 1)
end

-- Whether this lease is the newest of its partition and was not given back.
local function held(s, token)
    local p = call('HMGET', T .. 'p:' .. s, 'tok', 'lun')
    return p[1] == token and tonumber(p[2] or '0') > 0
end

local function let_go(s)
    call('HSET', T .. 'p:' .. s, 'lun', '0', 'own', '')
    enlist(s)
end

-- A partition's state as it is shown.
local function state(s)
    local found = call(
        'HMGET', T .. 'p:' .. s, 'n', 'b', 'old', 'att', 'nxt', 'since', 'fail', 'own', 'lun', 'me', 'ms', 'md'
    )
    for i = 1, 12 do found[i] = found[i] or '' end
    found[13], found[14] = names(s)
    return found
end
