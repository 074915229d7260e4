-- replay: send the requests of a file in their order, over and over; print what wrk counted.
--
-- Arguments, behind `--`: the file, the index of the request to begin with, and, if the run is to
-- end before its time, the number of answers to end after.
-- The file: requests as they are sent, with a zero byte between them.
-- The last line that is printed: JSON, times in microseconds. A run that ended after a number of
-- answers has no times.

local requests, index = {}, 0

local function report(figures)
  local fields = {}
  for name, value in pairs(figures) do
    fields[#fields + 1] = string.format('"%s":%.0f', name, value)
  end
  print('\n{' .. table.concat(fields, ',') .. '}')
end

local function read(file)
  local content = assert(io.open(file, 'rb')):read('*a')
  for request in content:gmatch('%Z+') do
    requests[#requests + 1] = request
  end
end

-- Only where it is needed: with a `response`, wrk hands every answer to Lua.
local function end_after(answers)
  local left, refused = answers, 0
  response = function(status)
    left = left - 1
    refused = refused + (status > 399 and 1 or 0)
    if left == 0 then
      report { answers = answers, refused = refused }
      os.exit(0) -- wrk itself would wait until its time is over
    end
  end
end

function init(args)
  read(args[1])
  index = tonumber(args[2]) % #requests
  if args[3] then
    end_after(tonumber(args[3]))
  end
end

function request()
  index = index % #requests + 1
  return requests[index]
end

function done(summary, latency)
  local errors = summary.errors
  report {
    answers = summary.requests,
    refused = errors.status,
    broken = errors.connect + errors.read + errors.write + errors.timeout,
    duration = summary.duration,
    p50 = latency:percentile(50),
    p99 = latency:percentile(99),
  }
end
