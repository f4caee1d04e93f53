-- Upkeep of one shard: what is old is forgotten, what must go is erased, and whether all is counted right.

local function forget_kept_of(s, through)
    local dropped = 0
    for _, m in ipairs(call('ZRANGE', T .. 'k:' .. s, 0, -1)) do
        local seq, size, _, epoch = fields(m)
        local at = tonumber(string.match(m, ':([^:]+)$'))
        if not through(at) then break end
        call('ZREM', T .. 'k:' .. s, m)
        bury(s, seq)
        call('HSET', T .. 'p:' .. s, 'ge', epoch, 'gs', seq)
        call('HINCRBY', T .. 'shard', 'kept', text(-tonumber(size)))
        dropped = dropped + tonumber(size)
    end
    sweep(s)
    local oldest = call('ZRANGE', T .. 'k:' .. s, 0, 0)[1]
    if oldest then
        call('ZADD', T .. 'kept', string.match(oldest, ':([^:]+)$'), s)
    else
        call('ZREM', T .. 'kept', s)
    end
    has_changed(s)
    return dropped
end

-- Everything that is kept of a partition of which nothing waits and nothing is parked.
local function delete(s)
    local stream, name = names(s)
    forget_kept_of(s, function() return true end)
    remove_copy(s)
    for _, kind in ipairs({'p:', 'e:', 'w:', 'x:', 'k:', 'd:', 'r:', 'n:', 'c:'}) do call('DEL', T .. kind .. s) end
    for _, index in ipairs({'noted', 'fences', 'marks', 'copies', 'kept'}) do call('ZREM', T .. index, s) end
    call('SREM', T .. 'failing:' .. stream, name)
end

-- name: forget_kept
-- now, for how long what was acknowledged is kept, bytes over the limit
local now, age, over = tonumber(A[1]), tonumber(A[2]), tonumber(A[3])
local gone = 0
for _ = 1, 500 do
    local oldest = call('ZRANGE', T .. 'kept', 0, 0, 'WITHSCORES')
    if #oldest == 0 then break end
    local function through(at) return at <= now - age or at > now + age or gone < over end
    if not through(tonumber(oldest[2])) then break end
    gone = gone + forget_kept_of(oldest[1], through)
end
return gone
-- name: forget
-- now, before when fences and marks are forgotten, most of each and of noted partitions
local now, old, most = tonumber(A[1]), A[2], tonumber(A[3])
for _, index in ipairs({'fences', 'marks', 'noted'}) do
    local key = T .. index
    local gone = index == 'noted' and {} or call('ZRANGEBYSCORE', key, '-inf', '(' .. old)
    local over = call('ZCARD', key) - #gone - most
    if over > 0 then
        for _, s in ipairs(call('ZRANGE', key, #gone, #gone + over - 1)) do gone[#gone + 1] = s end
    end
    for _, s in ipairs(gone) do
        call('ZREM', key, s)
        if index == 'fences' then call('HDEL', T .. 'p:' .. s, 'fence') end
        if index == 'marks' then call('HDEL', T .. 'p:' .. s, 'me', 'ms', 'md', 'mt') end
        if index == 'noted' then call('DEL', T .. 'n:' .. s); has_changed(s) end
    end
end
-- Notes that have ended; then guards need not be asked where nothing waits.
for _, s in ipairs(call('ZRANGE', T .. 'noted', 0, -1)) do
    local left, passing, changed = 0, 0, false
    local notes = call('HGETALL', T .. 'n:' .. s)
    for n = 1, #notes, 2 do
        local ends = noted(notes[n + 1])
        if ends ~= '' and tonumber(ends) <= now then
            call('HDEL', T .. 'n:' .. s, notes[n])
            changed = true
        else
            left = left + 1
            if ends ~= '' then passing = passing + 1 end
        end
    end
    if left == 0 then call('ZREM', T .. 'noted', s) end
    if changed then has_changed(s) end
end
return 1
-- name: forget_idle
-- A cursor and now: of some partitions, delete those of which nothing is left to be remembered. The next cursor.
local found = call('SCAN', A[1], 'MATCH', T .. 'p:*', 'COUNT', 500)
for _, key in ipairs(found[2]) do
    local s = string.sub(key, #T + 3)
    local p = call('HMGET', key, 'n', 'lun', 'fence', 'ms', 'cb', 'guarded')
    local passing = false
    for _, stored in ipairs(call('HVALS', T .. 'n:' .. s)) do
        if string.sub(stored, 1, 1) ~= '|' then passing = true end
    end
    if tonumber(p[1] or '0') == 0 then
        if p[6] == '1' and not passing then call('HSET', key, 'guarded', '0') end
        local used = p[3] or tonumber(p[4] or '0') > 0 or p[5] or tonumber(p[2] or '0') >= tonumber(A[2])
        for _, kind in ipairs({'x:', 'k:', 'n:'}) do used = used or call('EXISTS', T .. kind .. s) == 1 end
        if not used then delete(s) end
    end
end
return found[1]
-- name: erase
-- Names of partitions: how many went, and those that still wait in a stream.
local gone, waiting = 0, {}
local streams = call('SMEMBERS', T .. 'streams')
for n = 1, #A do
    local waits = false
    for _, stream in ipairs(streams) do
        waits = waits or tonumber(call('HGET', T .. 'p:' .. stream .. NUL .. A[n], 'n') or '0') > 0
    end
    if waits then
        waiting[#waiting + 1] = A[n]
    else
        for _, stream in ipairs(streams) do
            local s = stream .. NUL .. A[n]
            if call('EXISTS', T .. 'p:' .. s) == 1 then
                discard_all(s)
                delete(s)
                gone = gone + 1
            end
        end
        for _, stream in ipairs(call('SMEMBERS', T .. 'tallied')) do
            for _, field in ipairs(call('HKEYS', T .. 'tally:' .. stream)) do
                if string.sub(field, 1, #A[n] + 1) == A[n] .. NUL then call('HDEL', T .. 'tally:' .. stream, field) end
            end
        end
    end
end
return {gone, waiting}
-- name: marks
-- now, after when, how many: partitions that nobody holds with their marks, those acknowledged last first.
local found, from = {}, 0
while #found < tonumber(A[3]) do
    local some = call('ZREVRANGE', T .. 'marks', from, from + 499)
    for _, s in ipairs(some) do
        local p = call('HMGET', T .. 'p:' .. s, 'ms', 'lun', 'mt', 'me', 'md')
        if tonumber(p[1] or '0') > 0 and tonumber(p[2] or '0') <= tonumber(A[1]) and tonumber(p[3]) > tonumber(A[2]) then
            found[#found + 1] = {s, p[4], p[1], p[5], p[3]}
        end
    end
    if #some < 500 then break end
    from = from + 500
end
return found
-- name: forget_marks
for _, s in ipairs(call('ZRANGE', T .. 'marks', 0, -1)) do
    call('HDEL', T .. 'p:' .. s, 'me', 'ms', 'md', 'mt', 'ge', 'gs')
end
call('DEL', T .. 'marks')
return 1
-- name: kept_of
-- Partition: what is kept of it, and the last of it that is gone.
local p = call('HMGET', T .. 'p:' .. A[1], 'ge', 'gs')
return {call('ZRANGE', T .. 'k:' .. A[1], 0, -1), p[1] or '0', p[2] or '0'}
-- name: rewind
-- now, partition, token (empty: nobody may hold it), the first number that waits again (empty: none does),
-- what is gone as it was seen. How many wait again; -1 lost or held, -2 it has changed.
local s = A[2]
if A[3] ~= '' then
    if not held(s, A[3]) then return -1 end
elseif call('EXISTS', T .. 'p:' .. s) == 0 or tonumber(call('HGET', T .. 'p:' .. s, 'lun') or '0') > tonumber(A[1]) then
    return -1
end
if (call('HGET', T .. 'p:' .. s, 'gs') or '0') ~= A[5] then return -2 end
local returned, bytes = 0, 0
if A[4] ~= '' then
    for _, m in ipairs(call('ZRANGEBYSCORE', T .. 'k:' .. s, A[4], '+inf')) do
        local seq, size, at, epoch, replays, root, id = fields(m)
        call('ZREM', T .. 'k:' .. s, m)
        call('ZADD', T .. 'w:' .. s, seq, member(seq, size, at, epoch, replays, root, id))
        call('HINCRBY', T .. 'shard', 'kept', text(-tonumber(size)))
        returned, bytes = returned + 1, bytes + tonumber(size)
    end
    if call('ZCARD', T .. 'k:' .. s) == 0 then call('ZREM', T .. 'kept', s) end
end
if returned > 0 then
    call('SADD', T .. 'streams', (names(s)))
    count_waiting(s, returned, bytes)
    count(returned, bytes)
end
call('HDEL', T .. 'p:' .. s, 'me', 'ms', 'md', 'mt', 'ge', 'gs')
call('ZREM', T .. 'marks', s)
call('HSET', T .. 'p:' .. s, 'nxt', '0')
enlist(s)
has_changed(s)
return returned
-- name: renew_epoch
-- Partition, token, epoch, beyond which number, how much replays grow, first and last number that were read, and
-- entries without differences: of each the number that it has, its size and bytes. 1; 0 lost, -1 it has changed.
local s = A[1]
if not held(s, A[2]) then return 0 end
local waiting = call('ZRANGE', T .. 'w:' .. s, 0, -1)
if #waiting ~= (#A - 5) / 3 then return -1 end
for n, m in ipairs(waiting) do
    if fields(m) ~= A[3 + 3 * n] then return -1 end
end
local grown = 0
for n, m in ipairs(waiting) do
    local old, size, at, _, replays, _, id, file, values = fields(m)
    local seq = text(next_number(tonumber(A[4])))
    local entry, new_size = A[5 + 3 * n], A[4 + 3 * n]
    if file ~= '' then entry, new_size = call('HGET', T .. 'e:' .. s, old), size end -- its values stay in the file
    call('ZREM', T .. 'w:' .. s, m)
    bury(s, old)
    call('HSET', T .. 'e:' .. s, seq, entry)
    local again = text(tonumber(replays) + tonumber(A[5]))
    call('ZADD', T .. 'w:' .. s, seq, member(seq, new_size, at, A[3], again, '', id, file, values))
    grown = grown + tonumber(new_size) - tonumber(size)
end
sweep(s)
if #waiting > 0 then
    count_waiting(s, 0, grown)
    count(0, grown)
end
call('HSET', T .. 'p:' .. s, 'sp', '0')
has_changed(s)
return 1
-- name: raise_token
-- Partition, token, beyond which: the new one, 0 if the lease was lost.
if not held(A[1], A[2]) then return 0 end
local token = next_number(tonumber(A[3]))
call('HSET', T .. 'p:' .. A[1], 'tok', text(token), 'ver', text(token))
return token
-- name: binding
return {call('GET', T .. 'binding') or ''}
-- name: bind
-- What it was, what it becomes
if (call('GET', T .. 'binding') or '') ~= A[1] then return 0 end
call('SET', T .. 'binding', A[2])
return 1
-- name: damage
local found = call('HVALS', T .. 'damage')
for n, stored in ipairs(found) do found[n] = cmsgpack.unpack(stored) end
return found
-- name: note_damage
-- When, stream, partition, what: an id, unless it was noted before.
local key = cmsgpack.pack({A[2], A[3], A[4]})
if call('HSETNX', T .. 'damaged', key, '1') == 0 then return 0 end
local id = call('INCR', T .. 'damages')
call('HSET', T .. 'damage', id, cmsgpack.pack({text(id), A[1], A[2], A[3], A[4], ''}))
return id
-- name: announce_damage
-- When, ids
for n = 2, #A do
    local stored = call('HGET', T .. 'damage', A[n])
    if stored then
        local d = cmsgpack.unpack(stored)
        d[6] = A[1]
        call('HSET', T .. 'damage', A[n], cmsgpack.pack(d))
    end
end
return 1
-- name: miscounted
-- What this shard counts that is not so, as sentences.
local found = {}
local function same(what, counted, there)
    if tonumber(counted or '0') ~= there then
        found[#found + 1] = what .. ' is ' .. (counted or 'nothing') .. ', and should be ' .. text(there)
    end
end
local function partitions() -- SCAN may give one twice
    local keys, cursor = {}, '0'
    repeat
        local some = call('SCAN', cursor, 'MATCH', T .. 'p:*', 'COUNT', 1000)
        cursor = some[1]
        for _, key in ipairs(some[2]) do keys[key] = true end
    until cursor == '0'
    return keys
end
local entries, bytes, copied, kept, stubbed = 0, 0, 0, 0, 0
local streams, files = {}, {}
local function in_file(file, values)
    if file ~= '' then
        files[file] = (files[file] or 0) + tonumber(values)
        stubbed = stubbed + 1
    end
end
for key in pairs(partitions()) do
    local s = string.sub(key, #T + 3)
    local stream, name = names(s)
    local c = streams[stream] or {0, 0, 0}
    streams[stream] = c
    local n, b, alive = 0, 0, {}
    for _, m in ipairs(call('ZRANGE', T .. 'w:' .. s, 0, -1)) do
        local seq, size, _, _, _, root, _, file, values = fields(m)
        in_file(file, values)
        n, b, alive[seq] = n + 1, b + tonumber(size), true
        local noted_root = call('ZSCORE', T .. 'r:' .. s, seq) or ''
        if noted_root ~= root then found[#found + 1] = s .. ' ' .. seq .. ' builds on ' .. root .. ', not ' .. noted_root end
    end
    c[1], c[2] = c[1] + n, c[2] + b
    entries, bytes = entries + n, bytes + b
    for _, m in ipairs(call('ZRANGE', T .. 'x:' .. s, 0, -1)) do
        local seq, size, _, _, _, _, id, file, values = fields(m)
        in_file(file, values)
        entries, bytes, alive[seq], c[3] = entries + 1, bytes + tonumber(size), true, c[3] + 1
        if call('HEXISTS', T .. 'parked', id) == 0 then found[#found + 1] = s .. ' has no record of parked ' .. id end
    end
    for _, m in ipairs(call('ZRANGE', T .. 'k:' .. s, 0, -1)) do
        local seq, size = fields(m)
        kept, alive[seq] = kept + tonumber(size), true
    end
    for _, seq in ipairs(call('ZRANGE', T .. 'd:' .. s, 0, -1)) do alive[seq] = true end
    local there = 0
    for seq in pairs(alive) do there = there + call('HEXISTS', T .. 'e:' .. s, seq) end
    same(s .. ' entries that are there', text(call('HLEN', T .. 'e:' .. s)), there)
    local p = call('HMGET', key, 'n', 'b', 'old', 'first', 'last', 'cb', 'ten')
    same(s .. ' entries', p[1], n)
    same(s .. ' bytes', p[2], b)
    if n > 0 then
        local first = call('ZRANGE', T .. 'w:' .. s, 0, 0)[1]
        same(s .. ' first', p[4], tonumber((fields(first))))
        same(s .. ' last', p[5], tonumber((fields(call('ZRANGE', T .. 'w:' .. s, -1, -1)[1]))))
        if tonumber(call('ZSCORE', T .. 'due:' .. stream, name) or '-1') ~= tonumber(p[3]) then
            found[#found + 1] = s .. ' is not found by its age'
        end
    elseif call('ZSCORE', T .. 'due:' .. stream, name) then
        found[#found + 1] = s .. ' is taken for one that waits'
    end
    local ready = call('ZSCORE', ready_of(stream, p[7] or ''), name)
    local away = call('ZSCORE', T .. 'away:' .. stream, name)
    if (n > 0) ~= ((ready or away) and true or false) or (ready and away) then
        found[#found + 1] = s .. ' is not where it is found by who leases'
    end
    if ready and tonumber(ready) ~= tonumber(p[3]) then found[#found + 1] = s .. ' is ready by another age' end
    local head = call('ZRANGE', ready_of(stream, p[7] or ''), 0, 0, 'WITHSCORES')[2]
    if call('ZSCORE', T .. 'tenants:' .. stream, p[7] or '') ~= (head or false) then
        found[#found + 1] = s .. ' has a tenant that is not found by its age'
    end
    if p[6] then copied = copied + tonumber(p[6]) end
end
for stream, c in pairs(streams) do
    local st = call('HMGET', T .. 'st:' .. stream, 'entries', 'bytes', 'parked')
    same(stream .. ' entries', st[1], c[1])
    same(stream .. ' bytes', st[2], c[2])
    same(stream .. ' parked', st[3], c[3])
end
local c = call('HMGET', T .. 'shard', 'entries', 'bytes', 'copied', 'kept')
same('entries', c[1], entries)
same('bytes', c[2], bytes)
same('copied', c[3], copied)
same('kept', c[4], kept)
same('spilled', call('HGET', T .. 'shard', 'spilled'), stubbed)
local known = call('HGETALL', T .. 'spilled')
for n = 1, #known, 2 do same('values in the file ' .. known[n], known[n + 1], files[known[n]] or 0) end
return found
