-- Stands before each script. KEYS[1] is the hash tag of the slot: all keys of a script begin with it.
-- LANE and COUNT are the sender's lane and its count there (see the end, once.lua); A has the rest.
local T = KEYS[1] .. ':'
local A = ARGV
local LANE, COUNT = table.remove(A, 1), table.remove(A, 1)
local call = redis.call

-- A number as text that is read back as the same number.
local function text(number)
    if number == math.floor(number) and math.abs(number) < 9007199254740992 then
        return string.format('%d', number)
    end
    return string.format('%.17g', number)
end

-- Numbers of a shard. They count ticks of 16 microseconds since 2025, and have the shard in their last 6 bits, so that
-- shards never give the same one. They follow the server's clock and never go back, so that a server that lost its
-- tail does not give one again, and numbers of several shards can be compared.
local SHARD = tonumber(string.match(KEYS[1], ':(%d+)}$'))
local SHARDS, BEGIN = 64, 1735689600

local function given() return tonumber(call('HGET', T .. 'shard', 'last') or '0') end

-- In which run of a server it is asked, and the last number that was given before that run began. Whoever comes first
-- in a run writes that down, so that everybody else knows what the run does not have.
local function meet()
    local run = string.match(call('INFO', 'server'), 'run_id:(%w+)')
    local shard = call('HMGET', T .. 'shard', 'run', 'begin')
    if shard[1] ~= run then
        shard = {run, text(given())}
        call('HSET', T .. 'shard', 'run', run, 'begin', shard[2])
    end
    return {run, tonumber(shard[2]) * SHARDS + SHARDS - 1}
end

local function tick()
    local now = call('TIME')
    return math.floor(((tonumber(now[1]) - BEGIN) * 1000000 + tonumber(now[2])) / 16)
end

-- The next number, larger than all that the shard gave and than `beyond`.
local function next_number(beyond)
    local ticks = math.max(tick(), given() + 1)
    if beyond then ticks = math.max(ticks, math.floor(beyond / SHARDS) + 1) end
    call('HSET', T .. 'shard', 'last', text(ticks))
    return ticks * SHARDS + SHARD
end

-- Give no number up to this one any more.
local function raise_numbers(beyond)
    local ticks = math.floor(beyond / SHARDS)
    if given() < ticks then call('HSET', T .. 'shard', 'last', text(ticks)) end
end
