-- What waits in one shard; and beside it, jobs, tallies, marks and the binding.

-- name: states
-- Most, whether only those that failed, streams (none: all): their states, oldest first in each stream.
local streams = {unpack(A, 3)}
if #streams == 0 then streams = call('SMEMBERS', T .. 'streams') end
local found = {}
for _, stream in ipairs(streams) do
    local of_stream, from = 0, 0
    while of_stream < tonumber(A[1]) do
        local some = call('ZRANGE', T .. 'due:' .. stream, from, from + 499)
        for _, name in ipairs(some) do
            local s = stream .. NUL .. name
            local fits = A[2] == '' or (call('HGET', T .. 'p:' .. s, 'since') or '') ~= ''
            if fits and of_stream < tonumber(A[1]) then
                found[#found + 1] = state(s)
                of_stream = of_stream + 1
            end
        end
        if #some < 500 then break end
        from = from + 500
    end
end
return found
-- name: state
if tonumber(call('HGET', T .. 'p:' .. A[1], 'n') or '0') == 0 then return {} end
return state(A[1])
-- name: failing
-- States of all that wait and failed last time.
local found = {}
for _, stream in ipairs(call('SMEMBERS', T .. 'streams')) do
    for _, name in ipairs(call('SMEMBERS', T .. 'failing:' .. stream)) do
        local s = stream .. NUL .. name
        local p = call('HMGET', T .. 'p:' .. s, 'n', 'since')
        if tonumber(p[1] or '0') > 0 and (p[2] or '') ~= '' then found[#found + 1] = state(s) end
    end
end
return found
-- name: waiting
-- The stream and a number: the newest that waits, and partitions with one up to that number.
local newest, found = 0, {}
for _, name in ipairs(call('ZRANGE', T .. 'due:' .. A[1], 0, -1)) do
    local p = call('HMGET', T .. 'p:' .. A[1] .. NUL .. name, 'first', 'last')
    newest = math.max(newest, tonumber(p[2]))
    if tonumber(p[1]) <= tonumber(A[2]) then found[#found + 1] = name end
end
return {newest, found}
-- name: waiting_in
-- Partition and a number: the newest that waits in it, and whether one up to that number does.
local p = call('HMGET', T .. 'p:' .. A[1], 'n', 'first', 'last')
if tonumber(p[1] or '0') == 0 then return {0, 0} end
return {tonumber(p[3]), tonumber(p[2]) <= tonumber(A[2]) and 1 or 0}
-- name: first_waiting
-- Of each partition the first number that waits, 0 where entries are parked, -1 where nothing is there.
local found = {}
for n = 1, #A do
    if call('ZCARD', T .. 'x:' .. A[n]) > 0 then
        found[n] = 0
    else
        local p = call('HMGET', T .. 'p:' .. A[n], 'n', 'first')
        found[n] = tonumber(p[1] or '0') > 0 and tonumber(p[2]) or -1
    end
end
return found
-- name: depth
-- Entries and bytes of the shard; of each stream entries, bytes, partitions, age, how many fail, how many are parked.
-- In the first shard also what the server uses of its memory, and how much it may (0: any).
local streams = {}
for _, stream in ipairs(call('SMEMBERS', T .. 'streams')) do
    local c = call('HMGET', T .. 'st:' .. stream, 'entries', 'bytes', 'parked')
    local oldest = call('ZRANGE', T .. 'due:' .. stream, 0, 0, 'WITHSCORES')[2] or ''
    local failing = 0
    for _, name in ipairs(call('SMEMBERS', T .. 'failing:' .. stream)) do
        if call('ZSCORE', T .. 'due:' .. stream, name) then failing = failing + 1 end
    end
    streams[#streams + 1] = {
        stream, c[1] or '0', c[2] or '0', call('ZCARD', T .. 'due:' .. stream), oldest, failing, c[3] or '0',
    }
end
local shard = call('HMGET', T .. 'shard', 'entries', 'bytes')
local found = {shard[1] or '0', shard[2] or '0', streams}
if SHARD == 0 then
    local memory = call('INFO', 'memory')
    found[4] = string.match(memory, 'used_memory:(%d+)') or '0'
    found[5] = string.match(memory, 'maxmemory:(%d+)') or '0'
end
return found
-- name: partitions
-- Those of a stream that have something waiting or parked.
local found = call('ZRANGE', T .. 'due:' .. A[1], 0, -1)
for _, stored in ipairs(call('HVALS', T .. 'parked')) do
    local record = cmsgpack.unpack(stored)
    if record[2] == A[1] then found[#found + 1] = record[3] end
end
return found
-- name: save_job
-- id, when it was made, whether it has ended, the job
call('HSET', T .. 'jobs', A[1], A[4])
call('ZADD', T .. 'jobs_made', A[2], A[1])
call(A[3] == '1' and 'ZADD' or 'ZREM', T .. 'jobs_ended', unpack(A[3] == '1' and {A[2], A[1]} or {A[1]}))
return 1
-- name: job
return {call('HGET', T .. 'jobs', A[1]) or ''}
-- name: jobs
-- Jobs, newest first: how many are skipped, how many wanted.
local ids = call('ZREVRANGE', T .. 'jobs_made', A[1], tonumber(A[1]) + tonumber(A[2]) - 1)
local found = {}
for n, id in ipairs(ids) do found[n] = call('HGET', T .. 'jobs', id) end
return found
-- name: ended_jobs
-- When jobs were made that have ended, oldest first.
return call('ZRANGE', T .. 'jobs_ended', 0, tonumber(A[1]) - 1, 'WITHSCORES')
-- name: count_jobs
return call('HLEN', T .. 'jobs')
-- name: forget_jobs
for n = 1, #A do
    call('HDEL', T .. 'jobs', A[n])
    call('ZREM', T .. 'jobs_made', A[n])
    call('ZREM', T .. 'jobs_ended', A[n])
end
return #A
-- name: replace_job
-- id, what it was, what it becomes
if call('HGET', T .. 'jobs', A[1]) ~= A[2] then return 0 end
call('HSET', T .. 'jobs', A[1], A[3])
return 1
-- name: tally
-- The stream, the partition and key, value, count, now
local stored = call('HGET', T .. 'tally:' .. A[1], A[2])
local t = stored and cmsgpack.unpack(stored) or {'0', A[5], ''}
call('HSET', T .. 'tally:' .. A[1], A[2], cmsgpack.pack({text(tonumber(t[1]) + tonumber(A[4])), t[2], A[3]}))
call('SADD', T .. 'tallied', A[1])
return 1
-- name: tallies
local found = call('HGETALL', T .. 'tally:' .. A[1])
for n = 2, #found, 2 do found[n] = cmsgpack.unpack(found[n]) end
return found
