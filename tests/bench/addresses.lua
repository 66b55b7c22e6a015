-- Each request says in the header that it is given that it came from another client: for a server whose rate limit of
-- one address cannot be turned off. For others the header is one that nobody reads, so that wrk's work is the same.
local header, number = "X-Nobody", 0

function init(args)
  header = args[1] or header
end

function request()
  number = number + 1
  wrk.headers[header] = string.format("10.81.%d.%d", math.floor(number / 256) % 256, number % 256)
  return wrk.format()
end
