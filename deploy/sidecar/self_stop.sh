#!/bin/sh
# Stops the rented machine that it runs in, for pods with a bare vLLM or llama-server (--metrics): SELF_STOP_AFTER
# seconds after the last request, and MAX_RUNTIME seconds after its own start, whatever the traffic. Beside the engine:
#   sh self_stop.sh & exec vllm serve …
# It needs curl, and the key that RunPod and Vast put into each machine. It asks again for as long as it runs: ending
# the container would be no way out, because a vendor may start it again, and bills it either way.
set -u
after=${SELF_STOP_AFTER:-1800} longest=${MAX_RUNTIME:-43200} every=${LOOK_EVERY:-15}
metrics=${METRICS_URL:-http://127.0.0.1:8000/metrics}
if [ -n "${CONTAINER_ID:-}" ] && [ -n "${CONTAINER_API_KEY:-}" ]; then
  key=$CONTAINER_API_KEY method=PUT body='{"state": "stopped"}'
  look=${VAST_API_URL:-https://console.vast.ai/api/v0}/instances/$CONTAINER_ID/ stop=$look
else
  key=${RUNPOD_API_KEY:-} method=POST body='{"action": "stop"}'
  look=${RUNPOD_API_URL:-https://api.runpod.io/v2}/pods/${RUNPOD_POD_ID:-} stop=$look/action
fi
now() { cut -d. -f1 /proc/uptime; } # a clock that nobody sets
call() {                            # the key comes through a pipe, because ps shows arguments
  bearer=$1 && shift
  printf 'header = "Authorization: Bearer %s"\n' "$bearer" | curl -K - -s -m 20 "$@"
}
status() { call "$key" -o /dev/null -w '%{http_code}' -H 'Content-Type: application/json' "$@"; }
counted() { # what the engine has done so far; another text each time while it does something
  call "${API_KEY:-none}" "$metrics" | awk -v at="$at" '
    /^vllm:((prompt|generation)_tokens|request_success)_total|^llamacpp:(prompt_tokens|tokens_predicted)_total/
    /^vllm:num_requests_(running|waiting)|^llamacpp:requests_(processing|deferred)/ && $NF > 0 { print "busy", at }'
}
began=$(now) last=$began before=''
echo "[self-stop] $look: $(status "$look") (200: this machine's key works; 401, 403: it does not)"
while sleep "$every"; do
  at=$(now)
  seen=$(counted)
  if [ "$seen" != "$before" ]; then before=$seen last=$at; fi
  if [ $((at - last)) -ge "$after" ] || [ $((at - began)) -ge "$longest" ]; then
    echo "[self-stop] idle for $((at - last)) s, up for $((at - began)) s; asked to stop it:" \
      "$(status -X "$method" -d "$body" "$stop")"
  fi
done
