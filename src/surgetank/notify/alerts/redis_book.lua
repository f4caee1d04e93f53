-- The alert book, in one slot. Keys: `claims` (hash: rule NUL subject -> at|news_at) and `claimed` (the same
-- by time), `outbox:CHANNEL` (ids by id), `m:ID` (hash: a message on its way), `log` (newest first),
-- `channels` (hash: how each is doing), `ids` (a counter).
local function new_id() return call('INCR', T .. 'ids') end

local function note(at, channel, rule, title, attempt, outcome, failed, why)
    call('LPUSH', T .. 'log', cmsgpack.pack({text(new_id()), at, channel, rule, title, attempt, outcome, failed, why}))
end

local function drop(channel, id)
    call('ZREM', T .. 'outbox:' .. channel, id)
    call('DEL', T .. 'm:' .. id)
    if call('ZCARD', T .. 'outbox:' .. channel) == 0 then call('SREM', T .. 'waiting', channel) end
end

-- Whether a time is between now and the horizon. One beyond it was set by a clock that was set back.
local function ahead(time, now, horizon)
    local at = tonumber(time)
    return at > tonumber(now) and at <= tonumber(now) + tonumber(horizon)
end

-- name: claims
-- The claims of these fields; empty where there is none.
local found = {}
for i = 1, #A do found[i] = call('HGET', T .. 'claims', A[i]) or '' end
return found
-- name: post
-- now, most waiting, count of claims; of each field, what it was, what it becomes; count of channels, these;
-- of each message rule, severity, title, body. Nothing is done if a claim is not what it was.
local now, most, claims = A[1], tonumber(A[2]), tonumber(A[3])
for i = 0, claims - 1 do
    if (call('HGET', T .. 'claims', A[4 + 3 * i]) or '') ~= A[5 + 3 * i] then return 0 end
end
for i = 0, claims - 1 do
    call('HSET', T .. 'claims', A[4 + 3 * i], A[6 + 3 * i])
    call('ZADD', T .. 'claimed', now, A[4 + 3 * i])
end
local at = 4 + 3 * claims
local channels = tonumber(A[at])
for c = at + 1, at + channels do
    for m = at + channels + 1, #A, 4 do
        local id = text(new_id())
        call('HSET', T .. 'm:' .. id, 'rule', A[m], 'severity', A[m + 1], 'title', A[m + 2], 'body', A[m + 3],
            'posted_at', now, 'due_at', now, 'held_until', '0', 'attempts', '0')
        call('ZADD', T .. 'outbox:' .. A[c], id, id)
        call('SADD', T .. 'waiting', A[c])
    end
    local over = call('ZCARD', T .. 'outbox:' .. A[c]) - most
    if over > 0 then
        for _, id in ipairs(call('ZRANGE', T .. 'outbox:' .. A[c], 0, over - 1)) do
            local gone = call('HMGET', T .. 'm:' .. id, 'rule', 'title')
            drop(A[c], id)
            note(now, A[c], gone[1], gone[2], '0', 'dropped', '1', 'too many messages wait')
        end
    end
end
return 1
-- name: take
-- channel, now, horizon, until when it is held
for _, id in ipairs(call('ZRANGE', T .. 'outbox:' .. A[1], 0, -1)) do
    local m = T .. 'm:' .. id
    local at = call('HMGET', m, 'due_at', 'held_until')
    if not ahead(at[1], A[2], A[3]) and not ahead(at[2], A[2], A[3]) then
        call('HSET', m, 'held_until', A[4])
        local attempt = call('HINCRBY', m, 'attempts', 1)
        local found = call('HMGET', m, 'rule', 'severity', 'title', 'body', 'posted_at')
        return {id, text(attempt), unpack(found)}
    end
end
return {}
-- name: record
-- now, channel, rule, title, attempt, outcome, failed, why; id (empty: it was not in the outbox), and when it
-- is tried again (empty: never). Whoever took it over meanwhile decides what becomes of it.
local id, again = A[9], A[10]
if id ~= '' and call('HGET', T .. 'm:' .. id, 'attempts') == A[5] then
    if again ~= '' then
        call('HSET', T .. 'm:' .. id, 'due_at', again, 'held_until', '0')
    else
        drop(A[2], id)
    end
end
note(A[1], A[2], A[3], A[4], A[5], A[6], A[7], A[8])
local kept = call('HGET', T .. 'channels', A[2])
-- delivered, failed, failing since, last well, last, error
local c = kept and cmsgpack.unpack(kept) or {'0', '0', '', '', '', ''}
if A[7] == '1' then
    c[2] = text(tonumber(c[2]) + 1)
    if c[3] == '' then c[3] = A[1] end
    c[6] = A[8]
else
    c[1] = text(tonumber(c[1]) + 1)
    c[3], c[4], c[6] = '', A[1], ''
end
c[5] = A[1]
call('HSET', T .. 'channels', A[2], cmsgpack.pack(c))
return 1
-- name: sent
return call('ZREVRANGE', T .. 'claimed', 0, -1, 'WITHSCORES')
-- name: attempts
local found = call('LRANGE', T .. 'log', 0, tonumber(A[1]) - 1)
for i, line in ipairs(found) do found[i] = cmsgpack.unpack(line) end
return found
-- name: health
local found = call('HGETALL', T .. 'channels')
for i = 2, #found, 2 do found[i] = cmsgpack.unpack(found[i]) end
return found
-- name: waiting
local found = {}
for _, channel in ipairs(call('SMEMBERS', T .. 'waiting')) do
    found[#found + 1] = {channel, call('ZCARD', T .. 'outbox:' .. channel)}
end
return found
-- name: maintain
-- now, before when messages are orphans, before when claims are forgotten, most claims, most lines of the log
for _, channel in ipairs(call('SMEMBERS', T .. 'waiting')) do
    for _, id in ipairs(call('ZRANGE', T .. 'outbox:' .. channel, 0, -1)) do
        local m = call('HMGET', T .. 'm:' .. id, 'posted_at', 'rule', 'title', 'attempts')
        if tonumber(m[1]) < tonumber(A[2]) then
            drop(channel, id)
            note(A[1], channel, m[2], m[3], m[4], 'gave_up', '1', 'no process has this channel any more')
        end
    end
end
local old = call('ZRANGEBYSCORE', T .. 'claimed', '-inf', '(' .. A[3])
local over = call('ZCARD', T .. 'claimed') - #old - tonumber(A[4])
if over > 0 then
    for _, field in ipairs(call('ZRANGE', T .. 'claimed', #old, #old + over - 1)) do old[#old + 1] = field end
end
for _, field in ipairs(old) do
    call('ZREM', T .. 'claimed', field)
    call('HDEL', T .. 'claims', field)
end
call('LTRIM', T .. 'log', 0, tonumber(A[5]) - 1)
return #old
