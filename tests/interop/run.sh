#!/usr/bin/env bash
# The OpenAI SDK -> the gateway -> a real llama.cpp engine, and the committed
# receipts against what the engine reported. See README.md.
#
#   run.sh            installs into a temporary folder and runs everything
#   run.sh --direct   without a gateway: the client against the engine alone
#
# INTEROP_DIR names a folder to install into and keep. Listens on loopback only,
# on ports from the OS, and ends only the processes that it started.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

direct=no
[[ ${1:-} == --direct ]] && direct=yes

work=$(mktemp -d)
tools=${INTEROP_DIR:-$work/tools}
model=tiny
pids=()

clean_up() {
    local status=$? pid
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
    done
    for pid in "${pids[@]}"; do
        # A process that does not stop within ten seconds is killed.
        timeout 10 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" 2>/dev/null || true
    done
    if ((status != 0)); then
        local log
        for log in "$work"/*.log; do
            echo "--- last lines of ${log##*/}"
            tail -n 40 "$log"
        done
    fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits for a file that a process writes when it is ready: wait_file FILE PID SECONDS.
wait_file() {
    local end=$((SECONDS + $3))
    until [[ -s $1 ]]; do
        kill -0 "$2" 2>/dev/null || { echo "ended before it was ready: ${1##*/}" >&2; return 1; }
        ((SECONDS < end)) || { echo "not ready within $3 s: ${1##*/}" >&2; return 1; }
        sleep 0.1
    done
}

start_engine() {
    touch "$work/usage.jsonl"
    node "$here/engine/server.mjs" --modules "$tools/npm" --model-file "$tools/model.gguf" \
        --usage-log "$work/usage.jsonl" --address-file "$work/engine.address" \
        --model "$model" --token-delay-ms 3 >"$work/engine.log" 2>&1 &
    pids+=($!)
    wait_file "$work/engine.address" $! 60
    engine=$(<"$work/engine.address")
}

"$here/install.sh" "$tools"
python=$tools/venv/bin/python
(cd "$here" && "$python" -m unittest test_compare)
start_engine
if [[ $direct == yes ]]; then
    "$python" "$here/drive.py" --direct --base-url "$engine/v1" --model "$model" \
        --usage-log "$work/usage.jsonl"
    echo "interop: ok (without a gateway)"
    exit 0
fi
