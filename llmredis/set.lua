-- One exchange between a process and a set of limits: what the process used and
-- gives back is booked, then it is granted what it asks for, from every limit or
-- from none. Everything of a set is in four keys of one hash slot, so that this
-- script is the only one that touches them, and it runs alone.
--
-- Instants are whole milliseconds of the server's clock. A window is a row of
-- buckets named by the instant at which their charges leave it, rounded up, so that
-- a charge never leaves early; a daily window is one sum and the midnight at which
-- it ends.
--
-- KEYS  state   hash    m: all that is small; NAME:INDEX: what leaves with a bucket
--       people  hash    by process: its latest exchange and reply, slots, need
--       line    sorted  processes that wait, by arrival
--       looks   sorted  processes, by when to look at them: slots that expire, silence
--
-- In the order of ARGV; see exchange.go.
local state, people, line, looks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local argi = 0
local function str() argi = argi + 1; return ARGV[argi] end
local function num() argi = argi + 1; return tonumber(ARGV[argi]) end
local function vec()
  local a, b, c, d = num(), num(), num(), num()
  return {a, b, c, d}
end

local id, seq = str(), num()
local gen, rev, silent = str(), num(), num()   -- of its latest reply, and how long ago that was
local newgen, channel, mailbox = str(), str(), str()
local mode = num()                              -- 0 tells, 1 asks and waits in line, 2 asks and does not wait
local leaves, cut, bye = num(), num(), num()
local slots, busy, kept, slotneed, slotwant, ttl = num(), num(), num(), num(), num(), num()
local lease, settle, grace, watch, forget = num(), num(), num(), num(), num()
local need, want = vec(), vec()

local clock = redis.call('TIME')
local wall = clock[1] * 1000 + math.floor(clock[2] / 1000)

local packed = redis.call('HGET', state, 'm')
local m
local lost = false
if packed then
  m = cmsgpack.unpack(packed)
else
  m = {gen = newgen, rev = 0, now = wall, shift = 0, created = wall, opens = 0, slotsfrom = 0,
       slots = 0, waits = 0, serial = 0, head = '', headneed = {0, 0, 0, 0}, headslot = 0, headbox = '', headseen = 0, told = 0, due = 0,
       holders = 0, renewed = -1e9, logs = {}, paces = {}}
  if gen ~= '' then
    lost = true
  else
    -- Whoever knows more says so within this time: see "lost" below.
    m.opens = wall + settle
  end
end

-- A clock that is set back goes on from where it was.
local now = wall + m.shift
if now < m.now then
  if m.now - now > 1000 then m.shift = m.shift + m.now - now end
  now = m.now
end
m.now = now

-- The limits, and the window of each: those of one period share one.
local limits, windows = {}, {}
for i = 1, num() do
  local l = {}
  l.kind, l.amount, l.burst = num(), num(), num()
  l.hold, l.g, l.name = num(), num(), str()
  local days = num()
  local log = m.logs[l.name]
  if not log then
    -- first and last bucket, sums by kind, full until
    log = {1, 0, 0, 0, 0, 0, 0}
    m.logs[l.name] = log
  end
  local w = windows[l.name]
  if not w then
    w = {name = l.name, log = log, hold = l.hold, g = l.g, days = days}
    windows[l.name] = w
    windows[#windows + 1] = w
    for d = 1, days do
      local midnight = num()
      if midnight > wall and not w.reset then w.reset = midnight end
    end
    if days > 0 and not w.reset then return {'midnight', wall} end
  else
    for d = 1, days do num() end
  end
  l.w = w
  limits[i] = l
end

local record = redis.call('HGET', people, id)
local me = record and cmsgpack.unpack(record)

if gen ~= '' and not lost then
  if gen ~= m.gen then
    lost = true
  elseif rev > m.rev or (me and seq > me.seq + 1) then
    -- The server forgot exchanges that it had answered.
    lost = true
    m.gen, m.created = newgen, now
  end
end

local function save()
  if now - m.renewed > 10000 or m.renewed > now then m.renewed = now end
  redis.call('HSET', state, 'm', cmsgpack.pack(m))
  for _, k in ipairs(KEYS) do
    -- Keys that were made since would never expire, so all are told now and then.
    if m.renewed ~= now then break end
    redis.call('PEXPIRE', k, forget)
  end
end

if lost then
  -- What was granted before is not known any more: every window counts as full until
  -- the latest of it has left.
  for _, w in ipairs(windows) do
    if w.reset then
      w.log[7] = math.max(w.log[7], w.reset - wall + now)
    elseif silent < w.hold + lease then
      w.log[7] = math.max(w.log[7], m.created + w.hold + lease + 1)
    end
  end
  m.slotsfrom = math.max(m.slotsfrom, m.created + ttl)
  save()
  return {'lost', now}
end

if me then
  if seq == me.seq then
    me.reply[2] = now
    return me.reply
  elseif seq < me.seq then
    return {'old', now}
  end
elseif seq ~= 1 then
  return {'unknown', now}
end
m.rev = m.rev + 1
if cut == 1 then
  -- Others were cut off too, and have not said yet what they used meanwhile.
  m.opens = math.max(m.opens, now + settle)
end

-- Buckets are read together, changed here, and written together.
local cache, changed = {}, {}
local function load(fields)
  local ask = {}
  for _, f in ipairs(fields) do
    if cache[f] == nil then ask[#ask + 1] = f end
  end
  if #ask == 0 then return end
  local got = redis.call('HMGET', state, unpack(ask))
  for i, f in ipairs(ask) do
    cache[f] = got[i] and cmsgpack.unpack(got[i])
  end
end
local function bucket(w, at) return math.ceil((at + 1 + w.hold) / w.g) end

-- What has left its window.
for _, w in ipairs(windows) do
  local log = w.log
  if w.reset then
    if log[2] ~= w.reset then
      if log[2] <= wall then log[1], log[2], log[3], log[4], log[5], log[6] = math.max(log[2], 0), w.reset, 0, 0, 0, 0
      else log[2] = w.reset end
    end
  else
    local gone = math.min(math.floor(now / w.g), log[2])
    while log[1] <= gone do
      local fields = {}
      for i = log[1], math.min(gone, log[1] + 99) do fields[#fields + 1] = w.name .. ':' .. string.format('%.0f', i) end
      log[1] = log[1] + #fields
      for _, v in ipairs(redis.call('HMGET', state, unpack(fields))) do
        if v then
          v = cmsgpack.unpack(v)
          for k = 1, 4 do log[2 + k] = log[2 + k] - v[k] end
        end
      end
      redis.call('HDEL', state, unpack(fields))
    end
    if log[1] > log[2] then log[3], log[4], log[5], log[6] = 0, 0, 0, 0 end
  end
end

-- live tells whether a charge of that instant still counts in w.
local function live(w, at)
  if w.reset then return at - now + wall >= w.log[1] end
  return bucket(w, at) * w.g > now
end
local function field(w, at) return w.name .. ':' .. string.format('%.0f', bucket(w, at)) end
local function change(w, at, v)
  local log = w.log
  if not w.reset then
    local i, f = bucket(w, at), field(w, at)
    local b = cache[f]
    if not b then b = {0, 0, 0, 0}; cache[f] = b end
    for k = 1, 4 do b[k] = b[k] + v[k] end
    changed[f] = b
    if log[1] > log[2] then log[1], log[2] = i, i end
    log[1], log[2] = math.min(log[1], i), math.max(log[2], i)
  end
  for k = 1, 4 do log[2 + k] = log[2 + k] + v[k] end
end

local changes, overs, fields = {}, {}, {}
for i = 1, num() do
  local at = num()
  if at <= 0 then at = now + at end
  changes[i] = {at, vec()}
end
for i = 1, num() do
  local at = num()
  if at <= 0 then at = now + at end
  overs[i] = {at, vec()}
end
local ends = now + lease -- when what is granted now may be used at the latest
local short = 0          -- until when no lease is long enough
for _, w in ipairs(windows) do
  if w.reset and wall + lease >= w.reset then
    ends = math.min(ends, now + w.reset - wall - 1)
    if w.reset - wall < lease / 4 then short = math.max(short, now + w.reset - wall) end
  end
end
for _, w in ipairs(windows) do
  if not w.reset then
    for _, c in ipairs(changes) do
      if live(w, c[1]) then fields[#fields + 1] = field(w, c[1]) end
    end
    if mode > 0 then fields[#fields + 1] = field(w, ends) end
    if #overs > 0 then fields[#fields + 1] = field(w, now) end
    if #fields > 200 then load(fields); fields = {} end
  end
end
load(fields)

local before = {}
for _, w in ipairs(windows) do before[w.name] = {w.log[3], w.log[4], w.log[5], w.log[6]} end
for _, w in ipairs(windows) do
  for _, c in ipairs(changes) do
    if live(w, c[1]) then change(w, c[1], c[2]) end
  end
  for _, c in ipairs(overs) do
    if not live(w, c[1]) then change(w, now, c[2]) end
  end
end
local freed = false
for _, l in ipairs(limits) do
  local moved = l.w.log[2 + l.kind] - before[l.w.name][l.kind]
  if moved < 0 then freed = true end
  if l.burst > 0 then
    local p = m.paces[l.name .. l.kind] or {0, now}
    p[1] = math.max(0, p[1] - (now - p[2]) * l.amount / l.hold + moved)
    p[2] = now
    m.paces[l.name .. l.kind] = p
    l.pace = p
  end
end

-- Slots: what this process says that it holds; then those that nobody renewed.
local held = busy + kept
local had = me ~= nil and me ~= false and me.held > 0
if me and held < me.held then freed = true end
m.slots = m.slots - (me and me.held or 0) + held
me = me or {held = 0}
me.held = held
local goes = {}
for _, p in ipairs(redis.call('ZRANGEBYSCORE', looks, '-inf', now, 'LIMIT', 0, 20)) do
  if p ~= id then
    local r = redis.call('HGET', people, p)
    r = r and cmsgpack.unpack(r)
    if r and r.held > 0 then
      m.slots, m.holders = m.slots - r.held, m.holders - 1
      r.held = 0
      freed = true
      redis.call('HSET', people, p, cmsgpack.pack(r))
      redis.call('ZADD', looks, now + forget, p)
    else
      redis.call('HDEL', people, p)
      redis.call('ZREM', looks, p)
      goes[#goes + 1] = p
    end
  end
end

-- at gives when n would fit if nobody gave anything back: 0 now.
local function at(n, s)
  local t = 0
  if m.opens > now then t = m.opens end
  if short > now then t = math.max(t, short) end
  if s > 0 and slots > 0 then
    if m.slotsfrom > now then t = math.max(t, m.slotsfrom) end
    if slots - m.slots < s then t = math.max(t, now + watch) end
  end
  for _, l in ipairs(limits) do
    local w, k = l.w, l.kind
    local log = w.log
    if log[7] > now then t = math.max(t, log[7]) end
    local missing = log[2 + k] + n[k] - l.amount
    if missing > 0 then
      if w.reset then
        t = math.max(t, now + w.reset - wall)
      else
        local i = log[1]
        while missing > 0 and i <= log[2] do
          local fs = {}
          for j = i, math.min(log[2], i + 63) do fs[#fs + 1] = w.name .. ':' .. string.format('%.0f', j) end
          load(fs)
          for j, f in ipairs(fs) do
            if cache[f] then missing = missing - cache[f][k] end
            if missing <= 0 then t = math.max(t, (i + j - 1) * w.g); break end
          end
          i = i + #fs
        end
        if missing > 0 then t = math.max(t, now + watch) end
      end
    end
    if l.pace then
      local owed = l.pace[1]
      local room = math.max(l.burst - n[k], 0)
      if owed > room then t = math.max(t, now + math.ceil((owed - room) * l.hold / l.amount)) end
    end
  end
  return t
end

local silence = 5 * watch / 2 -- who waits and is not heard of for so long is gone

-- appoint tells who is first in line now when it may come.
local function appoint()
  while true do
    local h = redis.call('ZRANGE', line, 0, 0)[1]
    m.head = h or ''
    if not h then m.waits = 0; return end
    if h == id then
      m.told, m.due, m.headseen = now, now + grace, now
      return
    end
    local r = redis.call('HGET', people, h)
    r = r and cmsgpack.unpack(r)
    if r and now - r.seen <= silence then
      m.headseen = r.seen
      m.headneed, m.headslot, m.headbox = r.need, r.slot, r.box
      m.told = at(r.need, r.slot)
      m.due = math.max(m.told, now) + grace
      redis.call('PUBLISH', r.box, string.format('%.0f', m.told))
      return
    end
    redis.call('ZREM', line, h)
    m.waits = m.waits - 1
  end
end
local function steps_out(p)
  if redis.call('ZREM', line, p) == 1 then
    m.waits = m.waits - 1
    if m.head == p then appoint() end
  end
end
for _, p in ipairs(goes) do steps_out(p) end
if m.head == id then m.headseen = now end
if leaves == 1 or bye == 1 then steps_out(id) end

local granted, given, more, comes = 0, {0, 0, 0, 0}, 0, 0
if mode > 0 then
  while m.head ~= '' and m.head ~= id and (now > m.due or now - m.headseen > silence) do
    steps_out(m.head) -- it was told to come and did not, or is not there any more
  end
  local first = m.waits == 0 or m.head == id
  comes = first and at(need, slotneed) or 0
  if first and comes == 0 then
    -- Who is alone gets what it wants, else its part of what there is.
    local others = m.waits - (m.head == id and 1 or 0)
    local part = 1
    for _, l in ipairs(limits) do
      local k = l.kind
      local extra = want[k] - need[k]
      if extra > 0 then
        local room = (l.amount - l.w.log[2 + k] - need[k]) / (others + 1)
        if l.pace then room = math.min(room, math.max(0, l.burst - l.pace[1] - need[k]) / (others + 1)) end
        part = math.min(part, room / extra)
      end
    end
    granted = 1
    for k = 1, 4 do given[k] = need[k] + math.floor(math.max(0, want[k] - need[k]) * math.max(part, 0)) end
    for _, w in ipairs(windows) do change(w, ends, given) end
    for _, l in ipairs(limits) do
      if l.pace then l.pace[1] = l.pace[1] + given[l.kind] end
    end
    if slots > 0 then
      local free = slots - m.slots
      more = slotneed
      if slotwant > slotneed then more = more + math.max(0, math.min(slotwant - slotneed, math.floor((free - slotneed) / (others + 1)))) end
      if free < more then more = slotneed end
      m.slots = m.slots + more
      me.held = held + more
    end
    if others < m.waits then steps_out(id) end
  elseif mode == 1 then
    if redis.call('ZADD', line, 'NX', m.serial, id) == 1 then
      m.serial = m.serial + 1
      m.waits = m.waits + 1
      if m.waits == 1 then
        m.head, m.headseen = id, now
        comes = at(need, slotneed)
        redis.call('PUBLISH', channel, 'w')
      end
    end
    if m.head == id then
      m.headneed, m.headslot, m.headbox, m.told = need, slotneed, mailbox, comes
      m.due = comes + grace
      comes = math.min(comes, now + watch)
    else
      comes = math.min(math.max(m.due, now) + 20 * redis.call('ZRANK', line, id), now + watch)
    end
  end
end

-- Room that came back may serve who waits first earlier than it was told.
if freed and m.head ~= '' and m.head ~= id and m.told > now then
  local t = at(m.headneed, m.headslot)
  if t < m.told then
    m.told, m.due = t, math.max(t, now) + grace
    redis.call('PUBLISH', m.headbox, string.format('%.0f', t))
  end
end

local write = {}
for f, b in pairs(changed) do
  write[#write + 1] = f
  write[#write + 1] = cmsgpack.pack(b)
  if #write >= 200 then redis.call('HSET', state, unpack(write)); write = {} end
end
if #write > 0 then redis.call('HSET', state, unpack(write)) end

local others = m.waits
if others > 0 and redis.call('ZSCORE', line, id) then others = others - 1 end
local reply = {'ok', now, now, m.gen, m.rev, granted, given[1], given[2], given[3], given[4], ends, more, comes, others}
if bye == 1 then me.held, m.slots = 0, m.slots - me.held end
if had ~= (me.held > 0) then m.holders = m.holders + (had and -1 or 1) end
if slots > 0 then
  reply[15] = math.floor(slots / math.max(1, m.holders + m.waits))
  reply[16] = m.slots
else
  reply[15], reply[16] = 0, 0
end
for _, l in ipairs(limits) do
  reply[#reply + 1] = l.w.log[2 + l.kind]
  reply[#reply + 1] = math.max(l.w.log[7], m.opens)
end

if bye == 1 then
  redis.call('HDEL', people, id)
  redis.call('ZREM', looks, id)
else
  me.seq, me.reply, me.seen = seq, reply, now
  if mode == 1 then me.need, me.slot, me.box = need, slotneed, mailbox end
  redis.call('HSET', people, id, cmsgpack.pack(me))
  redis.call('ZADD', looks, now + ((me.held > 0) and ttl or forget), id)
end
save()
return reply
