-- Stands before each script. KEYS[1] is the hash tag of the slot: all keys of a script begin with it.
-- ARGV[1] and ARGV[2] are the sender's lane and its count there (see the end, once.lua); A has the rest.
local T = KEYS[1] .. ':'
local A = {}
for i = 3, #ARGV do A[i - 2] = ARGV[i] end
local call = redis.call

-- A number as text that is read back as the same number.
local function text(number)
    if number == math.floor(number) and math.abs(number) < 9007199254740992 then
        return string.format('%d', number)
    end
    return string.format('%.17g', number)
end
