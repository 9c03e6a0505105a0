#!/usr/bin/env bash
# Runs the README's session for real, in a home of its own, and prints it: bash scripts/transcript.sh
# Needs gpuserve on the PATH. What it prints stands in README.md as it came out.
set -u
home=$(mktemp -d)
export HOME=$home XDG_CONFIG_HOME= XDG_CACHE_HOME= XDG_STATE_HOME= COLUMNS=150
unset DAYTONA_API_KEY DAYTONA_API_URL
cd "$home" || exit 1

run() {
    printf '$ %s\n' "$1"
    eval "$1" 2>&1
    printf '\n'
}

run 'gpuserve up --local --name demo --ttl 1h'
run 'gpuserve query "What is the capital of France? Answer with one word." --temperature 0 --max-tokens 32 --stats'
run 'gpuserve status demo'
run 'gpuserve logs --tail 3'
run 'URL=$(gpuserve share --expires 10s)'
run 'curl -s "$URL/v1/models" | head -c 60'
run 'sleep 10; curl -s -o /dev/null -w "%{http_code}\n" "$URL/v1/models"   # it has expired'
run 'URL=$(gpuserve share --expires 1h)'
run 'curl -s -o /dev/null -w "%{http_code}\n" "$URL/v1/models"'
run 'gpuserve share --revoke'
run 'curl -s -o /dev/null -w "%{http_code}\n" "$URL/v1/models"'
run 'gpuserve down demo'
run 'gpuserve status'
run 'gpuserve host stop'
run 'ls ~/.local/state/gpuserve/host/sandboxes | wc -l; pgrep -fc "[l]lama_server|[g]puserve.host --state $HOME"'
rm -rf "$home"
