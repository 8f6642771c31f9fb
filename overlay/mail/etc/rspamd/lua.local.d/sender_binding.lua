-- The From: header must belong to whoever sends.
--
-- Postfix binds the envelope sender to the login, but people read the header. Here a logged-in user may write
-- only as one of the addresses that `senders` gives to that login, and nobody who has not logged in may write
-- as an address of ours. Headers that two programs could read in two ways are refused instead of interpreted.

local options = rspamd_config:get_all_opt("sender_binding")
local domain = options.domain:lower()

-- Which logins may write as `addr`: the table that Postfix uses too (smtpd_sender_login_maps), read anew for each
-- message, so a change counts at once. `ada+list@domain` is ada's as well.
local function logins(addr)
  local found = {}
  local plain = addr:gsub('%+[^@]*@', '@')
  for line in io.lines(options.senders) do
    local key, value = line:match('^(%S+)%s+(.+)$')
    if key and (key:lower() == addr or key:lower() == plain) then
      for name in value:lower():gmatch('[^,%s]+') do found[name] = true end
    end
  end
  return found
end

-- The one address of a header value, lower case; nil unless it is plainly `addr` or `name <addr>`.
local function plain_address(value)
  local rest = value:gsub('\\.', ''):gsub('"[^"]*"', ''):gsub('[\r\n\t]', ' ')
  local addr = rest:match('^[^<>@,;:()"]*<([^<>@,;:()"%s]+@[%w.-]+)>%s*$')
    or rest:match('^%s*([^<>@,;:()"%s]+@[%w.-]+)%s*$')
  return addr and addr:lower() or nil
end

local function refuse(task, text)
  task:set_pre_result('reject', text, 'sender_binding')
end

local function check(task)
  local login = task:get_user()
  login = login and login:lower() or nil
  if login and not login:find('@', 1, true) then login = login .. '@' .. domain end

  for _, name in ipairs({ 'From', 'Sender', 'Resent-From', 'Resent-Sender' }) do
    local headers = task:get_header_full(name) or {}
    if login and name == 'From' and #headers == 0 then
      return refuse(task, 'This message has no From: header')
    end
    if #headers > 1 and (login or name == 'From') then
      return refuse(task, 'This message has more than one ' .. name .. ': header')
    end
    for _, header in ipairs(headers) do
      local addr = plain_address(header.value or '')
      if login then
        if not addr then
          return refuse(task, name .. ': must hold exactly one address, written as name <address>')
        elseif not logins(addr)[login] then
          return refuse(task, name .. ': ' .. addr:gsub('[^%w@.+_-]', '?') .. ' is not an address of yours')
        end
      elseif name == 'From' or name == 'Sender' then
        -- A stranger's header may be odd; it may not name us anywhere, however it is written.
        local raw = ((header.value or '') .. ' ' .. (header.decoded or '')):lower()
        if raw:find('@' .. domain, 1, true) then
          return refuse(task, name .. ': names an address of ours: log in to use it')
        end
      end
    end
  end
  -- One's own mail is not searched for spam.
  if login then task:set_pre_result('accept', 'own user', 'sender_binding') end
end

rspamd_config:register_symbol({
  name = 'SENDER_BINDING',
  type = 'prefilter',
  priority = 10,
  callback = check,
})
