-- Who comes in, over all servers on one buffer. Keys: `tickets` (hash: digest -> its body), `tickets:until` (digests by when they end),
-- `failed:NAME` (hash `left`, `at`: failures that a name has left, as of when), `trying:NAME` (attempts that are under way, by when they are given up).

local TRYING_S = 30

local function now()
    local time = call('TIME')
    return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function drop(digest)
    call('HDEL', T .. 'tickets', digest)
    call('ZREM', T .. 'tickets:until', digest)
end

local function left(name, burst, at)
    local kept = call('HMGET', T .. 'failed:' .. name, 'left', 'at')
    if not kept[1] then return burst end
    return math.min(burst, tonumber(kept[1]) + math.max(0, at - tonumber(kept[2])) * burst / 60)
end

-- All is forgiven after a minute at most, unless more failed than there was left.
local function count(name, burst, at)
    local rest = left(name, burst, at) - 1
    call('HSET', T .. 'failed:' .. name, 'left', text(rest), 'at', text(at))
    call('EXPIRE', T .. 'failed:' .. name, math.ceil((burst - rest) * 60 / burst) + 1)
end

-- name: keep_ticket
-- Digest, body, seconds, most tickets.
local at = now()
for _, old in ipairs(call('ZRANGEBYSCORE', T .. 'tickets:until', '-inf', text(at))) do drop(old) end
call('HSET', T .. 'tickets', A[1], A[2])
call('ZADD', T .. 'tickets:until', text(at + tonumber(A[3])), A[1])
local over = call('ZCARD', T .. 'tickets:until') - tonumber(A[4])
if over > 0 then
    for _, old in ipairs(call('ZRANGE', T .. 'tickets:until', 0, over - 1)) do drop(old) end
end
call('EXPIRE', T .. 'tickets', 3600)
call('EXPIRE', T .. 'tickets:until', 3600)
return 1
-- name: take_ticket
-- Digest: its body, or nothing. It is gone then.
local body = call('HGET', T .. 'tickets', A[1])
local ends = tonumber(call('ZSCORE', T .. 'tickets:until', A[1]) or '0')
drop(A[1])
return {(body and ends > now()) and body or ''}
-- name: tickets
return call('HGETALL', T .. 'tickets')
-- name: drop_tickets
for n = 1, #A do drop(A[n]) end
return 1
-- name: begin
-- Name, id of the attempt, burst: 1 (go on) or 0, failures that are left, attempts under way.
local at = now()
local trying = T .. 'trying:' .. A[1]
call('ZREMRANGEBYSCORE', trying, '-inf', text(at))
local rest, others = left(A[1], tonumber(A[3]), at), call('ZCARD', trying)
if rest - others < 1 then return {0, text(rest), others} end
call('ZADD', trying, text(at + TRYING_S), A[2])
call('EXPIRE', trying, TRYING_S + 1)
return {1, text(rest), others + 1}
-- name: done
-- Name, id of the attempt, burst, whether it failed.
call('ZREM', T .. 'trying:' .. A[1], A[2])
if A[4] == '1' then count(A[1], tonumber(A[3]), now()) end
return 1
-- name: left
-- Name, burst.
return {text(left(A[1], tonumber(A[2]), now()))}
