-- The stream log of the threads of one shard. Keys: `sl:t:THREAD`, what its runs sent (a stream, by number),
-- `sl:threads` (hash: THREAD -> last number|last that is gone), `sl:seen` (threads by their last event),
-- `sl:r:RUN` (hash), `sl:ended` and `sl:open` (runs by when they ended, or were heard of).

local function bounds(thread)
    local stored = call('HGET', T .. 'sl:threads', thread)
    if not stored then return 0, 0 end
    local last, gone = string.match(stored, '^(%d+)|(%d+)$')
    return tonumber(last), tonumber(gone)
end

local function set_bounds(thread, last, gone)
    call('HSET', T .. 'sl:threads', thread, text(last) .. '|' .. text(gone))
end

local function fields_of(line)
    local found = {}
    for n = 1, #line[2], 2 do found[line[2][n]] = line[2][n + 1] end
    return found
end

local function seq_of(line) return tonumber(string.match(line[1], '^(%d+)')) end

local function shown(line)
    local f = fields_of(line)
    return {seq_of(line), f.r, f.e, f.d, f.a}
end

-- Remove a run's events; what is gone is remembered.
local function drop_run(run, now)
    local r = call('HMGET', T .. 'sl:r:' .. run, 'thread', 'first', 'last', 'ended', 'updated')
    if not r[1] then return end
    local stream = T .. 'sl:t:' .. r[1]
    local newest
    for _, line in ipairs(call('XRANGE', stream, r[2] .. '-0', r[3] .. '-0')) do
        if fields_of(line).r == run then
            call('XDEL', stream, line[1])
            newest = seq_of(line)
        end
    end
    if newest then
        local last, gone = bounds(r[1])
        set_bounds(r[1], last, math.max(gone, newest))
        call('HSET', T .. 'sl:r:' .. run, 'dropped', text(newest))
    end
    call('HSET', T .. 'sl:r:' .. run, 'bytes', '0')
    if not r[4] then
        call('HSET', T .. 'sl:r:' .. run, 'ended', r[5])
        call('ZADD', T .. 'sl:ended', r[5], run)
        call('ZREM', T .. 'sl:open', run)
    end
    if call('XLEN', stream) == 0 then call('DEL', stream) end
end

-- name: append (grows)
-- now, then of each group thread, run, attempt, whether it ends, its bytes, how many events, and of each name and
-- data. Of each group the number of its last event; 0, and nothing is written, when a later attempt writes.
local now, i = A[1], 1
local function take()
    i = i + 1
    return A[i]
end
local written = {}
while i < #A do
    local thread, run, attempt, ends, bytes, many = take(), take(), take(), take(), take(), tonumber(take())
    local r = T .. 'sl:r:' .. run
    local known = call('HMGET', r, 'attempt', 'first')
    if known[1] and tonumber(known[1]) > tonumber(attempt) then
        i = i + 2 * many
        written[#written + 1] = 0
    else
        local last, gone = bounds(thread)
        for n = 1, many do
            call('XADD', T .. 'sl:t:' .. thread, text(last + n) .. '-0', 'r', run, 'e', take(), 'd', take(), 'a', now)
        end
        set_bounds(thread, last + many, gone)
        call('ZADD', T .. 'sl:seen', now, thread)
        call('HSET', r, 'thread', thread, 'attempt', attempt, 'last', text(last + many), 'updated', now)
        call('HINCRBY', r, 'bytes', bytes)
        if not known[2] then call('HSET', r, 'first', text(last + 1)) end
        if ends == '1' then
            call('HSET', r, 'ended', now)
            call('ZADD', T .. 'sl:ended', now, run)
            call('ZREM', T .. 'sl:open', run)
        else
            call('HDEL', r, 'ended')
            call('ZADD', T .. 'sl:open', now, run)
            call('ZREM', T .. 'sl:ended', run)
        end
        written[#written + 1] = last + many
    end
end
return written
-- name: count
return call('INCRBY', T .. 'sl:count', A[1])
-- name: newest
return tonumber(call('GET', T .. 'sl:count') or '0')
-- name: read
-- Thread, run (empty: all), after which number, most events, most bytes: events, the newest number, what is gone.
local thread, run, after, most, max_bytes = A[1], A[2], tonumber(A[3]), tonumber(A[4]), tonumber(A[5])
local last, gone = bounds(thread)
if run ~= '' then gone = tonumber(call('HGET', T .. 'sl:r:' .. run, 'dropped') or '0') end
local found, bytes, from = {}, 0, after + 1
while #found < most and bytes < max_bytes do
    local some = call('XRANGE', T .. 'sl:t:' .. thread, text(from) .. '-0', '+', 'COUNT', 500)
    for _, line in ipairs(some) do
        local event = shown(line)
        if (run == '' or event[2] == run) and #found < most and bytes < max_bytes then
            found[#found + 1] = event
            bytes = bytes + #event[4]
        end
    end
    if #some < 500 then break end
    from = seq_of(some[#some]) + 1
end
return {found, last, gone}
-- name: has_ended
return call('HEXISTS', T .. 'sl:r:' .. A[1], 'ended')
-- name: last
-- Run and how many: its newest events, newest first.
local r = call('HMGET', T .. 'sl:r:' .. A[1], 'thread', 'first', 'last')
local found = {}
if r[1] then
    local to = r[3] .. '-0'
    while #found < tonumber(A[2]) do
        local some = call('XREVRANGE', T .. 'sl:t:' .. r[1], to, r[2] .. '-0', 'COUNT', 100)
        for _, line in ipairs(some) do
            local event = shown(line)
            if event[2] == A[1] and #found < tonumber(A[2]) then found[#found + 1] = event end
        end
        if #some < 100 then break end
        to = '(' .. some[#some][1]
    end
end
return found
-- name: forget_thread
local last = bounds(A[1])
for _, kind in ipairs({'sl:open', 'sl:ended'}) do
    for _, run in ipairs(call('ZRANGE', T .. kind, 0, -1)) do
        if call('HGET', T .. 'sl:r:' .. run, 'thread') == A[1] then
            call('ZREM', T .. kind, run)
            call('DEL', T .. 'sl:r:' .. run)
        end
    end
end
call('DEL', T .. 'sl:t:' .. A[1])
if last > 0 then set_bounds(A[1], last, last) end
return 1
-- name: forget_runs
for n = 1, #A do drop_run(A[n]) end
return 1
-- name: ended
-- now, before when a run that was not heard of is taken for ended, before when nothing is remembered of one whose events
-- are gone, most threads. Then those that ended, with when and their bytes; and the bytes of all.
for _, run in ipairs(call('ZRANGEBYSCORE', T .. 'sl:open', '-inf', '(' .. A[2])) do
    local at = call('HGET', T .. 'sl:r:' .. run, 'updated')
    call('HSET', T .. 'sl:r:' .. run, 'ended', at)
    call('ZADD', T .. 'sl:ended', at, run)
    call('ZREM', T .. 'sl:open', run)
end
local found, total = {}, 0
local ended = call('ZRANGE', T .. 'sl:ended', 0, -1, 'WITHSCORES')
for n = 1, #ended, 2 do
    local bytes = tonumber(call('HGET', T .. 'sl:r:' .. ended[n], 'bytes') or '0')
    if bytes > 0 then
        found[#found + 1] = {ended[n], ended[n + 1], bytes}
        total = total + bytes
    elseif tonumber(ended[n + 1]) < tonumber(A[3]) then
        call('ZREM', T .. 'sl:ended', ended[n])
        call('DEL', T .. 'sl:r:' .. ended[n])
    end
end
for _, run in ipairs(call('ZRANGE', T .. 'sl:open', 0, -1)) do
    total = total + tonumber(call('HGET', T .. 'sl:r:' .. run, 'bytes') or '0')
end
local over = call('ZCARD', T .. 'sl:seen') - tonumber(A[4])
if over > 0 then
    for _, thread in ipairs(call('ZRANGE', T .. 'sl:seen', 0, over - 1)) do
        local last, gone = bounds(thread)
        if last == gone then
            call('HDEL', T .. 'sl:threads', thread)
            call('ZREM', T .. 'sl:seen', thread)
        end
    end
end
return {found, total}
-- name: size
local bytes = 0
for _, kind in ipairs({'sl:open', 'sl:ended'}) do
    for _, run in ipairs(call('ZRANGE', T .. kind, 0, -1)) do
        bytes = bytes + 200 + tonumber(call('HGET', T .. 'sl:r:' .. run, 'bytes') or '0')
    end
end
return bytes + 100 * call('HLEN', T .. 'sl:threads')
