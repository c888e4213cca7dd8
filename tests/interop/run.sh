#!/usr/bin/env bash
# The OpenAI SDK -> the gateway -> a real llama.cpp engine, then the same through
# the real Envoy, and the committed receipts against what the engine reported.
# See README.md.
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
models=(--model tally-base --model tally-large)
pids=()

# Ends what was started, last first: the gateway settles with its validators
# before they go. One that does not stop within ten seconds is killed.
clean_up() {
    local status=$? i
    trap '' INT TERM
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill -TERM "${pids[i]}" 2>/dev/null || continue
        timeout 10 tail --pid="${pids[i]}" -f /dev/null || kill -KILL "${pids[i]}" 2>/dev/null || true
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
        "${models[@]}" --token-delay-ms 3 >"$work/engine.log" 2>&1 &
    pids+=($!)
    wait_file "$work/engine.address" $! 60
    engine=$(<"$work/engine.address")
}

# A value of a JSON file by its path: json FILE key 0 key ...
json() {
    "$python" -c 'import json, sys
value = json.load(open(sys.argv[1]))
for key in sys.argv[2:]:
    value = value[int(key) if key.isdigit() else key]
print(value)' "$@"
}

# Runs a command until it succeeds: wait_for SECONDS COMMAND...
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >"$work/waiting.log" 2>&1; do
        ((SECONDS < end)) || { echo "gave up waiting for: $*" >&2; return 1; }
        sleep 0.2
    done
}

# For commands that end. What runs in the background is started as "$binary"
# itself: of a function, $! would be the shell around it.
tally() {
    "$binary" "$@"
}

start_validators() {
    tally testnet "$net" --format json >"$work/net.json"
    export TALLY_GENESIS=$net/genesis.json
    TALLY_NODE=$(json "$work/net.json" validators 0 grpc)
    export TALLY_NODE
    local i
    for i in 0 1 2 3; do
        "$binary" node --home "$net/v$i" >"$work/v$i.log" 2>&1 &
        pids+=($!)
    done
    wait_for 60 tally status
}

# Opens an account with a grant of each class and an API key:
# open_account NAME HOLDER CT; the number goes to NAME.account, the key to NAME.apikey.
open_account() {
    local name=$1 holder=$net/keys/$2.key class
    tally account open --unit 1 --holder "$holder" --class innovation --class priority \
        --key "$net/keys/issuer-0.key" --format json >"$work/$name.json"
    json "$work/$name.json" entries 0 account >"$work/$name.account"
    for class in innovation priority; do
        tally grant issue --account "$(<"$work/$name.account")" --class "$class" --amount "$3" \
            --expires never --key "$net/keys/issuer-0.key" >"$work/$name-$class.log"
    done
    tally key create --account "$(<"$work/$name.account")" --out "$work/$name.apikey" \
        --key "$holder" >"$work/$name-key.log"
}

# The gateway of the genesis, in front of the engine under two names: for one
# it asks for usage at the end of a stream, for the other on each piece.
start_gateway() {
    local home=$work/gateway
    mkdir "$home"
    cp "$net/keys/gateway-0.key" "$home/gateway.key"
    cp "$net/genesis.json" "$home/genesis.json"
    cat >"$home/gateway.toml" <<END
nodes = ["$(json "$work/net.json" validators 0 grpc)", "$(json "$work/net.json" validators 1 grpc)"]
[listen]
http = "127.0.0.1:0"
envoy = "127.0.0.1:0"
[[upstream]]
url = "$engine"
models = ["tally-base"]
max_output = 2048
request_id = true
[[upstream]]
url = "$engine"
models = ["tally-large"]
max_output = 2048
request_id = true
continuous_usage = true
END
    "$binary" gateway --home "$home" --format json >"$work/gateway.json" 2>"$work/gateway.log" &
    pids+=($!)
    wait_file "$work/gateway.json" $! 60
    wait_for 10 json "$work/gateway.json" listening
    gateway=$(json "$work/gateway.json" listening)
    gateway_pid=${pids[-1]}
}

# The port of an address, or of a URL without a path.
port() {
    echo "${1##*:}"
}

# Envoy as contrib/envoy.yaml has it, but for ports and the engine's name.
start_envoy() {
    local asked
    asked=$(json "$work/gateway.json" envoy)
    sed -e "s/port_value: 10000/port_value: 0/; s/port_value: 9901/port_value: 0/" \
        -e "s/port_value: 8083/port_value: $(port "$asked")/" \
        -e "s/port_value: 8000/port_value: $(port "$engine")/" \
        -e "s|http://127.0.0.1:8000|$engine|" \
        "$root/gateway-adapter/contrib/envoy.yaml" >"$work/envoy.yaml"
    "$tools/envoy/bin/envoy" --mode validate --use-dynamic-base-id --config-path \
        "$root/gateway-adapter/contrib/envoy-edge.yaml" >"$work/envoy-edge.log" 2>&1
    "$tools/envoy/bin/envoy" --config-path "$work/envoy.yaml" --concurrency 2 \
        --use-dynamic-base-id --log-level warning \
        --admin-address-path "$work/envoy.admin" >"$work/envoy.log" 2>&1 &
    pids+=($!)
    wait_file "$work/envoy.admin" $! 60
    wait_for 60 "$python" "$here/doors.py" listener "$(<"$work/envoy.admin")"
    envoy=$("$python" "$here/doors.py" listener "$(<"$work/envoy.admin")")
}

# Without its gateway Envoy serves nobody.
stop_gateway() {
    kill -TERM "$gateway_pid"
    timeout 40 tail --pid="$gateway_pid" -f /dev/null
}

# drive NAME BASE_URL OPTION...: all cases with the account of that name.
drive() {
    local name=$1 url=$2
    shift 2
    mkdir "$work/receipts-$name"
    "$python" "$here/drive.py" --base-url "$url" --usage-log "$work/usage.jsonl" \
        --api-key "$(<"$work/$name.apikey")" --account "$(<"$work/$name.account")" \
        --poor-api-key "$(<"$work/poor.apikey")" --tally "$binary" \
        --receipts "$work/receipts-$name" "$@"
}

"$here/install.sh" "$tools"
python=$tools/venv/bin/python
(cd "$here" && "$python" -m unittest test_compare)
if [[ $direct == no ]]; then
    (cd "$root" && cargo build --bin tally)
    binary=${CARGO_TARGET_DIR:-$root/target}/debug/tally
fi
start_engine
if [[ $direct == yes ]]; then
    "$python" "$here/drive.py" --direct --base-url "$engine/v1" --usage-log "$work/usage.jsonl"
    echo "interop: ok (without a gateway)"
    exit 0
fi

net=$work/net
start_validators
open_account rich holder-0 100
open_account poor holder-1 0.001
open_account behind holder-2 100
start_gateway
drive rich "$gateway"
echo "interop: ok, through the gateway"
mv "$work/usage.jsonl" "$work/usage-gateway.jsonl"
touch "$work/usage.jsonl"
start_envoy
drive behind "http://$envoy/v1" --envoy
stop_gateway
"$python" "$here/doors.py" closed "http://$envoy/v1" "$(<"$work/behind.apikey")" "$work/usage.jsonl"
echo "interop: ok, through Envoy"
