-- Parked entries of one shard.

-- name: park
-- Partition, token, number, now, failure, an id if it has none, its whole size, the whole entry (empty: as it is).
-- Its record, or `lost` or `missing`.
local s, token, seq = A[1], A[2], A[3]
if not held(s, token) then return {'lost'} end
local m = call('ZRANGEBYSCORE', T .. 'w:' .. s, seq, seq)[1]
if not m then return {'missing'} end
local _, size, at, epoch, replays, _, id, file, values = fields(m)
if id == '' then id = A[6] end
local full_size = file == '' and A[8] ~= '' and A[7] or size -- one that was spilled stays so
local stream = names(s)
call('ZREM', T .. 'w:' .. s, m)
call('ZREM', T .. 'r:' .. s, seq)
if A[8] ~= '' and file == '' then call('HSET', T .. 'e:' .. s, seq, A[8]) end
call('ZADD', T .. 'x:' .. s, seq, member(seq, full_size, at, epoch, replays, '', id, file, values))
local _, name = names(s)
local record = {id, stream, name, seq, full_size, at, A[4], A[5], replays}
call('HSET', T .. 'parked', id, cmsgpack.pack(record))
call('HINCRBY', T .. 'st:' .. stream, 'parked', 1)
count_waiting(s, -1, -tonumber(size))
count(0, tonumber(full_size) - tonumber(size))
has_changed(s)
return record
-- name: parked
local found = call('HVALS', T .. 'parked')
for n, record in ipairs(found) do found[n] = cmsgpack.unpack(record) end
return found
-- name: parked_entry
-- The record of this id, its member and the entry.
local stored = call('HGET', T .. 'parked', A[1])
if not stored then return {} end
local record = cmsgpack.unpack(stored)
local s = record[2] .. NUL .. record[3]
local x = call('ZRANGEBYSCORE', T .. 'x:' .. s, record[4], record[4])[1]
return {record, x or '', call('HGET', T .. 'e:' .. s, record[4]) or ''}
-- name: unpark
-- now, epoch, id: its new number at the end of its partition; 0 where there is none.
local stored = call('HGET', T .. 'parked', A[3])
if not stored then return 0 end
local record = cmsgpack.unpack(stored)
local stream, name, old = record[2], record[3], record[4]
local s = stream .. NUL .. name
local x = call('ZRANGEBYSCORE', T .. 'x:' .. s, old, old)[1]
local _, size, at, _, replays, _, id, file, values = fields(x)
local seq = text(next_number())
local entry = call('HGET', T .. 'e:' .. s, old)
call('ZREM', T .. 'x:' .. s, x)
call('HDEL', T .. 'parked', id)
call('HINCRBY', T .. 'st:' .. stream, 'parked', -1)
bury(s, old) -- what builds on it names its old number
call('HSET', T .. 'e:' .. s, seq, entry)
call('ZADD', T .. 'w:' .. s, seq, member(seq, size, at, A[2], text(tonumber(replays) + 1), '', id, file, values))
local p = T .. 'p:' .. s
local first = tonumber(call('HGET', p, 'n') or '0') == 0
call('HSET', p, 'last', seq)
if first then
    call('HSET', p, 'old', A[1], 'first', seq)
    call('ZADD', T .. 'due:' .. stream, A[1], name)
end
count_waiting(s, 1, tonumber(size), true)
sweep(s)
has_changed(s)
return tonumber(seq)
-- name: discard
-- Ids: how many went.
local gone = 0
for n = 1, #A do
    local stored = call('HGET', T .. 'parked', A[n])
    if stored then
        local record = cmsgpack.unpack(stored)
        local s = record[2] .. NUL .. record[3]
        local x = call('ZRANGEBYSCORE', T .. 'x:' .. s, record[4], record[4])[1]
        discard(s, x)
        sweep(s)
        has_changed(s)
        gone = gone + 1
    end
end
return gone
-- name: parked_here
-- Which of these ids are in this shard.
local found = {}
for n = 1, #A do
    if call('HEXISTS', T .. 'parked', A[n]) == 1 then found[#found + 1] = A[n] end
end
return found
-- name: new_id
return call('INCR', T .. 'parked_ids')
