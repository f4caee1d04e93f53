-- Incidents and originals, in one slot: both are few. Keys: `incidents` (hash: key -> what it is), `originals` (a list,
-- newest first).

-- name: raise
-- Key, rank of its severity, what it is, how many it concerns: 1 if it is new or graver.
local stored = call('HGET', T .. 'incidents', A[1])
if stored then
    local known = cmsgpack.unpack(stored)
    if tonumber(known[1]) >= tonumber(A[2]) then
        known[3] = A[4]
        call('HSET', T .. 'incidents', A[1], cmsgpack.pack(known))
        return 0
    end
    -- It began when it began.
    call('HSET', T .. 'incidents', A[1], cmsgpack.pack({A[2], A[3], A[4], known[4]}))
    return 1
end
call('HSET', T .. 'incidents', A[1], cmsgpack.pack({A[2], A[3], A[4], A[5]}))
return 1
-- name: clear
local stored = call('HGET', T .. 'incidents', A[1])
if not stored then return {} end
call('HDEL', T .. 'incidents', A[1])
return cmsgpack.unpack(stored)
-- name: incidents
local found = call('HVALS', T .. 'incidents')
for n, stored in ipairs(found) do found[n] = cmsgpack.unpack(stored) end
return found
-- name: forget
-- Keys of incidents
for n = 1, #A do call('HDEL', T .. 'incidents', A[n]) end
return 1
-- name: keep (grows)
-- Most, then originals
for n = 2, #A do call('LPUSH', T .. 'originals', A[n]) end
call('LTRIM', T .. 'originals', 0, tonumber(A[1]) - 1)
return 1
-- name: originals
return call('LRANGE', T .. 'originals', A[1], tonumber(A[1]) + tonumber(A[2]) - 1)
-- name: forget_originals
for n = 1, #A do call('LREM', T .. 'originals', 0, A[n]) end
return 1
