-- What is done to the hot rows of tables, in order. Keys: `log` (hash: number -> mark, run of the server, body), `head` (hash: `n`, the number
-- of the newest step; `at`, `name`: the newest copy of a replica, and up to which number it has all; `first`: where the log begins).

local MARK, RUN = 12, 40

local function head(field) return call('HGET', T .. 'head', field) end

local function number() return tonumber(head('n') or '0') end

local function mark_of(n)
    local found = call('HGET', T .. 'log', text(n))
    return found and string.sub(found, 1, MARK)
end

local function put(n, mark, run, body)
    call('HSET', T .. 'log', text(n), mark .. run .. body)
    call('HSET', T .. 'head', 'n', text(n))
end

-- Whether somebody who has done all up to `at`, and that one had this mark, can go on: 1. Else 0 where there is a copy to begin
-- with, or -1 where what was done is not here any more.
local function standing(at, mark)
    local copied = tonumber(head('at') or '0')
    if at == 0 then return copied == 0 and 1 or 0 end
    local found = mark_of(at)
    if found then return found == mark and 1 or -1 end
    return copied > at and 0 or -1
end

local function add(at, mark, body, own)
    local stands = standing(at, mark)
    if stands ~= 1 then return {stands, 0, ''} end
    local n, run = number() + 1, string.match(call('INFO', 'server'), 'run_id:(%w+)')
    put(n, own, run, body)
    return {1, n, run}
end

-- name: append (grows)
-- Up to where the sender has done all, the mark of that, the body, and its mark.
return add(tonumber(A[1]), A[2], A[3], A[4])
-- name: note
-- The same of what makes room.
return add(tonumber(A[1]), A[2], A[3], A[4])
-- name: after
-- Up to where the sender has done all, the mark of that, at most how many steps and bytes: how it stands, the newest number, and number,
-- mark, run and body of each.
local at, left = tonumber(A[1]), tonumber(A[4])
local stands, newest = standing(at, A[2]), number()
local found = {stands, newest}
if stands ~= 1 then return found end
for n = at + 1, math.min(newest, at + tonumber(A[3])) do
    local step = call('HGET', T .. 'log', text(n))
    found[#found + 1] = n
    found[#found + 1] = string.sub(step, 1, MARK)
    found[#found + 1] = string.sub(step, MARK + 1, MARK + RUN)
    found[#found + 1] = string.sub(step, MARK + RUN + 1)
    left = left - #step
    if left < 0 then break end
end
return found
-- name: copy
-- The name of the newest copy, or nothing, and up to where it has all.
return {head('name') or '', tonumber(head('at') or '0')}
-- name: keep_copy
-- Its name, up to where it has all, the mark of that: the name of the one before, and whether it was taken. The log keeps that step.
local at = tonumber(A[2])
if at <= tonumber(head('at') or '0') or mark_of(at) ~= A[3] then return {'', 0} end
local before = head('name') or ''
call('HSET', T .. 'head', 'name', A[1], 'at', text(at))
local gone = {}
for n = tonumber(head('first') or '1'), at - 1 do
    gone[#gone + 1] = text(n)
    if #gone == 1000 then
        call('HDEL', T .. 'log', unpack(gone))
        gone = {}
    end
end
if #gone > 0 then call('HDEL', T .. 'log', unpack(gone)) end
call('HSET', T .. 'head', 'first', text(at))
return {before, 1}
-- name: seed
-- A copy's name, up to where it has all, the mark of that: the log goes on from there, where the server has lost all that it had.
if number() > 0 then return 0 end
put(tonumber(A[2]), A[3], string.rep('0', RUN), '')
call('HSET', T .. 'head', 'name', A[1], 'at', A[2], 'first', A[2])
return 1
