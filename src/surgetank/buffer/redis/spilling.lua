-- Spilling: values of entries of one shard move into files. Files are known in the first shard (`spills`), and by each
-- shard that has values in one (`spilled`). A file that is `closed` gets no more of a shard's values, so that one
-- that was given up is deleted only when nothing can refer to it any more.

-- The partition's oldest entry that is not spilled, and the last before it that needs none.
local function first_left(s)
    local after = call('HGET', T .. 'p:' .. s, 'sp') or '0'
    while true do
        local some = call('ZRANGEBYSCORE', T .. 'w:' .. s, '(' .. after, '+inf', 'LIMIT', 0, 100)
        for _, m in ipairs(some) do
            local seq, _, _, _, _, _, _, file = fields(m)
            if file == '' then return m, after end
            after = seq -- it was parked, and is tried again
        end
        if #some < 100 then return nil, after end
    end
end

-- name: candidates
-- now, clock step, before when (empty: all), whether the sink is down, most, stream: partitions that have something to be
-- spilled, with what they are ordered by, and the last entry that needs none.
local now, before = tonumber(A[1]), tonumber(A[3])
local found = {}
for _, name in ipairs(call('ZRANGE', T .. 'due:' .. A[6], 0, -1)) do
    local s = A[6] .. NUL .. name
    local p = call('HMGET', T .. 'p:' .. s, 'old', 'since', 'lun', 'lat', 'b')
    local held_by_other = tonumber(p[3] or '0') > now and tonumber(p[4] or '0') <= now + tonumber(A[2])
    local left, after = first_left(s)
    if left and not held_by_other then
        local _, _, at = fields(left)
        local failing = (p[2] or '') ~= '' and tonumber(p[2]) <= (before or 0)
        if not before then
            found[#found + 1] = {text(-tonumber(p[5])), name, after}
        elseif (failing or (A[4] == '1' and tonumber(p[1]) <= before)) and tonumber(at) <= before then
            found[#found + 1] = {p[1], name, after}
        end
    end
end
table.sort(found, function(a, b) return tonumber(a[1]) < tonumber(b[1]) end)
while #found > tonumber(A[5]) do table.remove(found) end
return found
-- name: stub
-- Partition, token, file, how many entries are spilled; of each its number, its new size and bytes, how many values are in
-- the file; then entries that built on them, of each number, size and bytes. `ok`, `lost`, `closed` or `changed`.
local s, file, many = A[1], A[3], tonumber(A[4])
if not held(s, A[2]) then return 'lost' end
if call('SISMEMBER', T .. 'closed', file) == 1 then return 'closed' end
local known = {}
for _, m in ipairs(call('ZRANGEBYSCORE', T .. 'w:' .. s, A[5], '+inf')) do known[(fields(m))] = m end
for n = 5, 4 + 4 * many, 4 do
    if not known[A[n]] then return 'changed' end
end
local grown, last = 0, A[1 + 4 * many]
local given_full = {}
for n = 5 + 4 * many, #A, 3 do given_full[A[n]] = true end
for _, seq in ipairs(call('ZRANGEBYSCORE', T .. 'r:' .. s, '-inf', last)) do
    -- What builds on a value that goes into a file must stand on its own.
    if tonumber(seq) > tonumber(last) and not given_full[seq] then return 'changed' end
end
local function replace(seq, new_size, entry, values)
    local m = known[seq]
    local _, size, at, epoch, replays, _, id, old_file, old_values = fields(m)
    if old_file ~= '' then return end
    if values == '0' then values = '' end
    call('ZREM', T .. 'w:' .. s, m)
    call('ZREM', T .. 'r:' .. s, seq)
    call('HSET', T .. 'e:' .. s, seq, entry)
    local in_file = values ~= '' and file or ''
    call('ZADD', T .. 'w:' .. s, seq, member(seq, new_size, at, epoch, replays, '', id, in_file, values))
    count_spilled(in_file, values, 1)
    grown = grown + tonumber(new_size) - tonumber(size)
end
for n = 5, 4 + 4 * many, 4 do replace(A[n], A[n + 1], A[n + 2], A[n + 3]) end
for n = 5 + 4 * many, #A, 3 do
    if known[A[n]] then replace(A[n], A[n + 1], A[n + 2], '') end
end
call('HSET', T .. 'p:' .. s, 'sp', last)
sweep(s)
count_waiting(s, 0, grown)
count(0, grown)
has_changed(s)
return 'ok'
-- name: close
-- Files that get no more: how many values of each this shard has.
local found = {}
for n = 1, #A do
    call('SADD', T .. 'closed', A[n])
    found[n] = tonumber(call('HGET', T .. 'spilled', A[n]) or '0')
end
return found
-- name: counts
local found = {}
for n = 1, #A do found[n] = tonumber(call('HGET', T .. 'spilled', A[n]) or '0') end
return found
-- name: spilled_entries
return tonumber(call('HGET', T .. 'shard', 'spilled') or '0')
-- name: forget_here
call('HDEL', T .. 'spilled', A[1])
call('SREM', T .. 'closed', A[1])
return 1
-- name: new_file
-- The file, and its id where there may be one with that: its number, and what was known of it (empty: it is new).
if A[2] ~= '' then
    local files = call('HGETALL', T .. 'spills')
    for n = 1, #files, 2 do
        if string.find(files[n + 1], A[2], 1, true) then return {tonumber(files[n]), files[n + 1]} end
    end
end
local number = call('INCR', T .. 'spill_numbers')
call('HSET', T .. 'spills', text(number), A[1])
return {number, ''}
-- name: file
-- Number, what it was, what it becomes (empty: it goes): 1 if it was that.
local stored = call('HGET', T .. 'spills', A[1]) or ''
if stored ~= A[2] then return 0 end
if A[3] == '' then
    call('HDEL', T .. 'spills', A[1])
else
    call('HSET', T .. 'spills', A[1], A[3])
end
return 1
-- name: files
return call('HGETALL', T .. 'spills')
-- name: one_file
return {call('HGET', T .. 'spills', A[1]) or ''}
-- name: take_over
-- now, epoch, most entries, how many other shards have, file; then of each entry its partition, where it is from, when it
-- was accepted, replays, size, how many values are in the file, the entry, and (or empty) its number and epoch in this
-- buffer, if it is this buffer's. Of each 1 if it was taken in, 0 if it is known, -1 if the buffer is full.
local taken = {}
for n = 6, #A, 9 do
    local s, origin, here_seq, here_epoch = A[n], A[n + 1], A[n + 7], A[n + 8]
    local stream, name = names(s)
    local outcome = 1
    if call('SISMEMBER', T .. 'recovered', origin) == 1 then outcome = 0 end
    if outcome == 1 and here_seq ~= '' then
        for _, kind in ipairs({'w:', 'x:', 'k:'}) do
            local m = call('ZRANGEBYSCORE', T .. kind .. s, here_seq, here_seq)[1]
            if m then
                local _, _, _, epoch = fields(m)
                if epoch == here_epoch then outcome = 0 end
            end
        end
    end
    if outcome == 1 and tonumber(call('HGET', T .. 'shard', 'entries') or '0') + tonumber(A[4]) >= tonumber(A[3]) then
        outcome = -1
    end
    if outcome >= 0 then call('SADD', T .. 'recovered', origin) end
    if outcome == 1 then
        local seq, size, values = text(next_number()), A[n + 4], A[n + 5]
        local in_file = values ~= '0' and A[5] or ''
        if in_file == '' then values = '' end
        call('HSET', T .. 'e:' .. s, seq, A[n + 6])
        call('ZADD', T .. 'w:' .. s, seq, member(seq, size, A[n + 2], A[2], A[n + 3], '', '', in_file, values))
        count_spilled(in_file, values, 1)
        local p = T .. 'p:' .. s
        call('HSET', p, 'last', seq)
        if tonumber(call('HGET', p, 'n') or '0') == 0 then
            call('HSET', p, 'old', A[n + 2], 'first', seq)
            call('ZADD', T .. 'due:' .. stream, A[n + 2], name)
            call('SADD', T .. 'streams', stream)
        end
        count_waiting(s, 1, tonumber(size), true)
        count(1, tonumber(size))
        has_changed(s)
    end
    taken[#taken + 1] = outcome
    if outcome == -1 then break end
end
return taken
