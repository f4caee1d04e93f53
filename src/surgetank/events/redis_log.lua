-- The event log of one shard. Keys: `ev` (a stream: what was told, by number), `ev:t:THREAD` (numbers of its events
-- by their seq), `ev:threads` (hash: THREAD -> last seq|last that is gone), `ev:seen` (threads by their last event),
-- `ev:newest` and `ev:gone` (the newest number, and the last that is gone), `ev:chains` (hash: how far each chain of the audit was forwarded) and
-- `ev:chained` (chains by when).

local function bounds(thread)
    local stored = call('HGET', T .. 'ev:threads', thread)
    if not stored then return 0, 0 end
    local last, gone = string.match(stored, '^(%d+)|(%d+)$')
    return tonumber(last), tonumber(gone)
end

local function set_bounds(thread, last, gone)
    call('HSET', T .. 'ev:threads', thread, text(last) .. '|' .. text(gone))
end

local function publish(thread, kind, body, now)
    local last, gone = bounds(thread)
    local id = next_number()
    call('XADD', T .. 'ev', text(id) .. '-0', 't', thread, 's', text(last + 1), 'y', kind, 'a', now, 'b', body)
    call('ZADD', T .. 'ev:t:' .. thread, text(last + 1), text(id))
    set_bounds(thread, last + 1, gone)
    call('ZADD', T .. 'ev:seen', now, thread)
    call('SET', T .. 'ev:newest', text(id))
    return {id, last + 1}
end

local function number_of(line) return tonumber(string.match(line[1], '^(%d+)')) end

local function shown(line)
    local f = {}
    for n = 1, #line[2], 2 do f[line[2][n]] = line[2][n + 1] end
    return {number_of(line), f.y, f.t, tonumber(f.s), f.a, f.b}
end

local function newest() return tonumber(call('GET', T .. 'ev:newest') or '0') end

local function remove(line)
    local event = shown(line)
    call('XDEL', T .. 'ev', line[1])
    call('ZREM', T .. 'ev:t:' .. event[3], text(event[1]))
    return event
end

-- name: publish (grows)
-- now, then thread, type and body of each event: their numbers.
local found = {}
for n = 2, #A, 3 do found[#found + 1] = publish(A[n], A[n + 1], A[n + 2], A[1]) end
return found
-- name: forward (grows)
-- now, whether the chains are others now; chain, place, thread, type and body of each row; without a type it tells
-- nothing. How many events.
if A[2] == '1' then call('DEL', T .. 'ev:chains', T .. 'ev:chained') end
local told = 0
for n = 3, #A, 5 do
    if tonumber(call('HGET', T .. 'ev:chains', A[n]) or '-1') < tonumber(A[n + 1]) then
        call('HSET', T .. 'ev:chains', A[n], A[n + 1])
        call('ZADD', T .. 'ev:chained', A[1], A[n])
        if A[n + 3] ~= '' then
            publish(A[n + 2], A[n + 3], A[n + 4], A[1])
            told = told + 1
        end
    end
end
return told
-- name: position
return {call('GET', T .. 'ev:position') or ''}
-- name: set_position
call('SET', T .. 'ev:position', A[1])
return 1
-- name: forwarded
local found = {}
for n = 1, #A do found[n] = call('HGET', T .. 'ev:chains', A[n]) or '' end
return found
-- name: standing
-- The newest number, and the last that is gone.
return {newest(), tonumber(call('GET', T .. 'ev:gone') or '0')}
-- name: newest
-- How many: the numbers of the newest events.
local found = {}
for n, line in ipairs(call('XREVRANGE', T .. 'ev', '+', '-', 'COUNT', A[1])) do found[n] = number_of(line) end
return found
-- name: page
-- From when the log is read up to a number, nothing else may come before that. After which number, up to which, most
-- events, most bytes: whether there are more, and events.
local max_bytes = tonumber(A[4])
raise_numbers(tonumber(A[2]))
local found, bytes = {}, 0
local some = call('XRANGE', T .. 'ev', text(tonumber(A[1]) + 1) .. '-0', A[2], 'COUNT', A[3])
for _, line in ipairs(some) do
    if bytes < max_bytes then
        found[#found + 1] = shown(line)
        bytes = bytes + #found[#found][6]
    end
end
return {(#some == tonumber(A[3]) or #found < #some) and 1 or 0, found}
-- name: thread
-- Thread, after which seq, most events, most bytes: its last seq, the last that is gone, events.
local last, gone = bounds(A[1])
local found, bytes = {}, 0
for _, id in ipairs(call('ZRANGEBYSCORE', T .. 'ev:t:' .. A[1], '(' .. A[2], '+inf', 'LIMIT', 0, A[3])) do
    if bytes >= tonumber(A[4]) then break end
    local line = call('XRANGE', T .. 'ev', id .. '-0', id .. '-0')[1]
    if line then
        found[#found + 1] = shown(line)
        bytes = bytes + #found[#found][6]
    end
end
return {last, gone, found}
-- name: forget_thread
for _, id in ipairs(call('ZRANGE', T .. 'ev:t:' .. A[1], 0, -1)) do call('XDEL', T .. 'ev', id .. '-0') end
call('DEL', T .. 'ev:t:' .. A[1])
local last = bounds(A[1])
if last > 0 then set_bounds(A[1], last, last) end
return 1
-- name: forget_lines
-- Thread, then numbers of lines: events of the type `log` that told them.
local wanted = {}
for n = 2, #A do wanted[tonumber(A[n])] = true end
for _, id in ipairs(call('ZRANGE', T .. 'ev:t:' .. A[1], 0, -1)) do
    local line = call('XRANGE', T .. 'ev', id .. '-0', id .. '-0')[1]
    local event = line and shown(line)
    if event and event[2] == 'log' then
        local well, body = pcall(cjson.decode, event[6])
        if well and type(body) == 'table' and wanted[tonumber(body.log_seq)] then remove(line) end
    end
end
return 1
-- name: erase_threads
for n = 1, #A do
    for _, id in ipairs(call('ZRANGE', T .. 'ev:t:' .. A[n], 0, -1)) do call('XDEL', T .. 'ev', id .. '-0') end
    call('DEL', T .. 'ev:t:' .. A[n])
    call('HDEL', T .. 'ev:threads', A[n])
    call('ZREM', T .. 'ev:seen', A[n])
end
return 1
-- name: erase_words
-- Words: events of no thread with one of them in it.
for _, id in ipairs(call('ZRANGE', T .. 'ev:t:', 0, -1)) do
    local line = call('XRANGE', T .. 'ev', id .. '-0', id .. '-0')[1]
    local body = line and shown(line)[6]
    for n = 1, #A do
        if body and string.find(body, A[n], 1, true) then
            remove(line)
            body = nil
        end
    end
end
return 1
-- name: erase_alerts
-- Words: claims, messages and lines of the alert book with one of them in it (`redis_book.lua`).
local function named(...)
    for _, part in ipairs({...}) do
        for n = 1, #A do
            if part and string.find(part, A[n], 1, true) then return true end
        end
    end
end
for _, field in ipairs(call('HKEYS', T .. 'claims')) do
    if named(field) then
        call('HDEL', T .. 'claims', field)
        call('ZREM', T .. 'claimed', field)
    end
end
for _, channel in ipairs(call('SMEMBERS', T .. 'waiting')) do
    for _, id in ipairs(call('ZRANGE', T .. 'outbox:' .. channel, 0, -1)) do
        if named(unpack(call('HMGET', T .. 'm:' .. id, 'title', 'body'))) then
            call('ZREM', T .. 'outbox:' .. channel, id)
            call('DEL', T .. 'm:' .. id)
        end
    end
end
for _, line in ipairs(call('LRANGE', T .. 'log', 0, -1)) do
    local l = cmsgpack.unpack(line)
    if named(l[5], l[9]) then call('LREM', T .. 'log', 0, line) end
end
return 1
-- name: ages
-- Before when events are old, and how many are wanted: how many there are, the first that is not old (0: none), and the
-- numbers of the first ones.
local young, from = 0, '-'
while young == 0 do
    local some = call('XRANGE', T .. 'ev', from, '+', 'COUNT', 200)
    for _, line in ipairs(some) do
        if young == 0 and tonumber(shown(line)[5]) >= tonumber(A[1]) then young = number_of(line) end
    end
    if #some < 200 then break end
    from = '(' .. some[#some][1]
end
local first = {}
if tonumber(A[2]) > 0 then
    for _, line in ipairs(call('XRANGE', T .. 'ev', '-', '+', 'COUNT', A[2])) do first[#first + 1] = number_of(line) end
end
return {call('XLEN', T .. 'ev'), young, first}
-- name: drop
-- Up to which number events go; before when chains are forgotten; most threads.
local newest_gone, threads = 0, {}
while true do
    local some = call('XRANGE', T .. 'ev', '-', A[1], 'COUNT', 500)
    for _, line in ipairs(some) do
        local event = remove(line)
        newest_gone, threads[event[3]] = event[1], event[4]
    end
    if #some < 500 then break end
end
for thread, seq in pairs(threads) do
    local last, gone = bounds(thread)
    set_bounds(thread, last, math.max(gone, seq))
end
if newest_gone > 0 then call('SET', T .. 'ev:gone', text(newest_gone)) end
for _, chain in ipairs(call('ZRANGEBYSCORE', T .. 'ev:chained', '-inf', '(' .. A[2])) do
    call('ZREM', T .. 'ev:chained', chain)
    call('HDEL', T .. 'ev:chains', chain)
end
local over = call('ZCARD', T .. 'ev:seen') - tonumber(A[3])
if over > 0 then
    for _, thread in ipairs(call('ZRANGE', T .. 'ev:seen', 0, over - 1)) do
        local last, gone = bounds(thread)
        if last == gone then
            call('HDEL', T .. 'ev:threads', thread)
            call('ZREM', T .. 'ev:seen', thread)
        end
    end
end
return 1
-- name: size
local bytes = 0
local some = call('XREVRANGE', T .. 'ev', '+', '-', 'COUNT', 50)
for _, line in ipairs(some) do bytes = bytes + 300 + #shown(line)[6] end
return #some == 0 and 0 or math.floor(bytes / #some * call('XLEN', T .. 'ev'))
