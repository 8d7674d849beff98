-- Prints one line of JSON: what was done and how long it took, times in microseconds.
done = function(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    'JSON{"requests":%d,"duration_us":%d,"p50":%d,"p99":%d,"p999":%d,"max":%d,"errors":%d}',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
