#!/usr/bin/env bash
# The OpenAI SDK -> the gateway -> a real llama.cpp engine, then the same through
# the real nginx and the real Envoy, and the committed receipts against what the
# engine reported. Then what doors do when they only admit, and when the gateway
# is killed. See README.md.
#
#   run.sh            installs into a temporary folder and runs everything
#   run.sh --direct   without a gateway: the client against the engine alone
#   run.sh --litellm  through a LiteLLM proxy instead, in both of its ways; this
#                     installs 0.9 GB more and is not among what CI runs
#
# INTEROP_DIR names a folder to install into and keep. Listens on loopback only,
# on ports from the OS, and ends only the processes that it started.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

mode=${1:-all}
case $mode in
all | --direct | --litellm) ;;
*) echo "usage: run.sh [--direct | --litellm]" >&2; exit 2 ;;
esac

work=$(mktemp -d)
tools=${INTEROP_DIR:-$work/tools}
models=(--model tally-base --model tally-large)
[[ $mode != --litellm ]] || models+=(--model tally-embed)
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
        for log in "$work"/{engine,gateway,envoy*,nginx*,litellm*,v?,waiting}.log; do
            [[ -e $log ]] || continue
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

# The example's genesis; with LiteLLM, also a model whose price knows no output.
start_validators() {
    tally genesis example >"$work/genesis.toml"
    [[ $mode != --litellm ]] || cat >>"$work/genesis.toml" <<'END'
[[model]]
number = 3
name = "tally-embed"
weight = 1
weight_coefficient = 1000
meters = [{ name = "input", coefficient = 20000 }]
END
    tally testnet "$net" --config "$work/genesis.toml" --format json >"$work/net.json"
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

# Opens an account with an API key: open_account NAME HOLDER; the number goes to
# NAME.account, the key to NAME.apikey.
open_account() {
    local name=$1 holder=$net/keys/$2.key
    tally account open --unit 1 --holder "$holder" --class innovation --class priority \
        --key "$net/keys/issuer-0.key" --format json >"$work/$name.json"
    json "$work/$name.json" entries 0 account >"$work/$name.account"
    tally key create --account "$(<"$work/$name.account")" --out "$work/$name.apikey" \
        --key "$holder" >"$work/$name-key.log"
}

# The same, with a grant of each class: open_with NAME HOLDER CT.
open_with() {
    local class
    open_account "$1" "$2"
    for class in innovation priority; do
        tally grant issue --account "$(<"$work/$1.account")" --class "$class" --amount "$3" \
            --expires never --key "$net/keys/issuer-0.key" >"$work/$1-$class.log"
    done
}

# The gateway of the genesis, in front of the engine under two names: for one
# it asks for usage at the end of a stream, for the other on each piece.
write_gateway_home() {
    local home=$work/gateway
    mkdir "$home"
    cp "$net/keys/gateway-0.key" "$home/gateway.key"
    cp "$net/genesis.json" "$home/genesis.json"
    cat >"$home/gateway.toml" <<END
nodes = ["$(json "$work/net.json" validators 0 grpc)", "$(json "$work/net.json" validators 1 grpc)"]
[listen]
http = "127.0.0.1:0"
grpc = "127.0.0.1:0"
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
    [[ $mode != --litellm ]] || cat >>"$home/gateway.toml" <<END
[[upstream]]
url = "$engine"
models = ["tally-embed"]
max_output = 2048
request_id = true
END
}

# Starts it; a second time on the addresses that it had.
start_gateway() {
    local home=$work/gateway
    if [[ -e $work/gateway.json ]]; then
        sed -i "s/^http = .*/http = \"$(address "$gateway")\"/; s/^envoy = .*/envoy = \"$asked\"/" \
            "$home/gateway.toml"
        rm "$work/gateway.json"
    fi
    # A hold that nobody settles: here a killed LiteLLM's.
    [[ $mode != --litellm ]] || printf '[limits]\nhold_seconds = 20\n' >>"$home/gateway.toml"
    "$binary" gateway --home "$home" --format json >"$work/gateway.json" 2>>"$work/gateway.log" &
    pids+=($!)
    gateway_pid=$!
    wait_file "$work/gateway.json" "$gateway_pid" 60
    wait_for 10 json "$work/gateway.json" listening
    gateway=$(json "$work/gateway.json" listening)
    asked=$(json "$work/gateway.json" envoy)
}

# Host and port of a URL.
address() {
    local rest=${1#*://}
    echo "${rest%%/*}"
}

# The port of an address, or of a URL without a path.
port() {
    echo "${1##*:}"
}

# Starts Envoy with contrib/NAME.yaml, but for ports and the engine's name, and
# says where it listens: start_envoy NAME SERVICE. What is behind envoy-edge are
# two Envoys; here it is one, twice.
start_envoy() {
    local name=$1 listens="10[01]00" pairs=none
    [[ $name != envoy-edge ]] || listens=10080 pairs="1000[01]"
    sed -e "s/port_value: $listens/port_value: 0/; s/port_value: 9901/port_value: 0/" \
        -e "s/port_value: $pairs/port_value: $(port "$2")/" \
        -e "s/port_value: 8083/port_value: $(port "$asked")/" \
        -e "s/port_value: 80[09]0/port_value: $(port "$2")/" \
        -e "s|http://127.0.0.1:8000|$2|" "$contrib/$name.yaml" >"$work/$name.yaml"
    # Its address is asked of it, where the file names none.
    grep -q '^admin:' "$work/$name.yaml" || echo 'admin: {' \
        'address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }' >>"$work/$name.yaml"
    "$tools/envoy/bin/envoy" --config-path "$work/$name.yaml" --concurrency 2 \
        --use-dynamic-base-id --log-level warning \
        --admin-address-path "$work/$name.admin" >"$work/$name.log" 2>&1 &
    pids+=($!)
    wait_file "$work/$name.admin" $! 60
    wait_for 60 "$python" "$here/doors.py" listener "$(<"$work/$name.admin")"
    envoy=$("$python" "$here/doors.py" listener "$(<"$work/$name.admin")")
}

# A service that says what reached it: start_service NAME [--hang-up].
start_service() {
    touch "$work/$1.requests"
    "$python" "$here/service.py" "$work/$1.address" "$work/$1.requests" "${@:2}" >"$work/$1.log" 2>&1 &
    pids+=($!)
    wait_file "$work/$1.address" $! 20
    service=$(<"$work/$1.address")
}

# Starts nginx with contrib/nginx.conf, but for ports:
# start_nginx NAME SERVICE GATEWAY...
start_nginx() {
    local home=$work/$1 servers="" at
    nginx=127.0.0.1:$("$python" "$here/doors.py" port)
    for at in "${@:3}"; do
        servers+="server $at; "
    done
    mkdir "$home"
    sed -e "s/127.0.0.1:10090/$nginx/; s/127.0.0.1:8090/$2/" \
        -e "s/server 127.0.0.1:8080;/$servers/" "$contrib/nginx.conf" >"$home/nginx.conf"
    # As root it would work as nobody, to whom this folder is closed.
    local user=()
    ((EUID != 0)) || user=(-g "user root;")
    PATH=$PATH:/usr/sbin nginx -c "$home/nginx.conf" -p "$home" -e stderr "${user[@]}" >"$work/$1.log" 2>&1 &
    pids+=($!)
    wait_file "$home/nginx.pid" $! 20
}

# Starts a LiteLLM proxy with contrib/litellm, but for ports:
# start_litellm forward|meter API_BASE, with a second model. Random weights
# repeat themselves; that is not to be an error of LiteLLM's.
start_litellm() {
    local second="litellm_params: { model: openai/tally-embed, api_base: $2, api_key: none }"
    litellm=127.0.0.1:$("$python" "$here/doors.py" port)
    sed -e "s|http://127.0.0.1:8080/v1|$2|; s/tally_hook.forward/tally_hook.$1/" \
        -e "/^model_list/a\  - model_name: tally-embed\n    $second" \
        -e '/drop_params/a\  turn_off_message_logging: true' "$contrib/litellm/config.yaml" >"$work/litellm-$1.yaml"
    cp "$contrib/litellm/tally_hook.py" "$work"
    TALLY_GATEWAY=http://$(address "$gateway") TALLY_METERING=$(json "$work/gateway.json" metering) \
        TALLY_PROTO=$root/proto/proto TALLY_REQUEST_ID=yes LITELLM_LOCAL_MODEL_COST_MAP=True \
        LITELLM_MASTER_KEY=sk-$(openssl rand -hex 32) REPEATED_STREAMING_CHUNK_LIMIT=100000 \
        "$tools/litellm/bin/litellm" --config "$work/litellm-$1.yaml" --host 127.0.0.1 \
        --port "$(port "$litellm")" --telemetry False >"$work/litellm-$1.log" 2>&1 &
    pids+=($!)
    wait_for 120 curl --silent --fail "http://$litellm/health/liveliness"
}

# All that an account can be told and charged behind LiteLLM, and what is
# charged when a client does not wait for a whole answer (LiteLLM does), and when
# LiteLLM is killed: drive_litellm forward|meter API_BASE KNOWN
drive_litellm() {
    open_with "$1" holder-0 100
    start_litellm "$1" "$2"
    drive "$1" "http://$litellm/v1" --litellm "$1"
    new_usage_log "$1"
    open_with "$1-gone" holder-1 100
    "$python" "$here/killed.py" gone "http://$litellm/v1" "$(<"$work/$1-gone.apikey")" "$work/$1-gone.seen"
    charged_for "$1-gone" reported
    new_usage_log "$1-gone"
    open_with "$1-killed" holder-2 100
    kill_midway "$1-killed" "http://$litellm/v1" "${pids[-1]}"
    charged_for "$1-killed" "$3"
    new_usage_log "$1-killed"
    echo "interop: ok, through LiteLLM ($1)"
}

# Kills a process while it streams an answer: kill_midway ACCOUNT BASE_URL PID
kill_midway() {
    "$python" "$here/killed.py" "$2" "$(<"$work/$1.apikey")" "$work/$1.seen" "$3"
    timeout 10 tail --pid="$3" -f /dev/null
}

# What that was charged: charged_for ACCOUNT estimated|counted|worst|reported
charged_for() {
    mkdir "$work/receipts-$1"
    "$python" "$here/killed.py" charged "$work/usage.jsonl" "$work/$1.seen" \
        "$(<"$work/$1.account")" "$binary" "$work/receipts-$1" "$2"
}

# Ends the gateway, and waits until it is gone: stop_gateway SIGNAL.
stop_gateway() {
    kill "-$1" "$gateway_pid"
    timeout 40 tail --pid="$gateway_pid" -f /dev/null
}

# The engine's log of what is past is kept aside.
new_usage_log() {
    mv "$work/usage.jsonl" "$work/usage-$1.jsonl"
    touch "$work/usage.jsonl"
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

"$here/install.sh" "$tools" "$mode"
python=$tools/venv/bin/python
(cd "$here" && "$python" -m unittest test_compare)
if [[ $mode == --litellm ]]; then
    (cd "$here" && LITELLM_LOCAL_MODEL_COST_MAP=True "$tools/litellm/bin/python" -m unittest test_litellm)
fi
if [[ $mode != --direct ]]; then
    (cd "$root" && cargo build --bin tally)
    binary=${CARGO_TARGET_DIR:-$root/target}/debug/tally
fi
start_engine
if [[ $mode == --direct ]]; then
    "$python" "$here/drive.py" --direct --base-url "$engine/v1" --usage-log "$work/usage.jsonl"
    echo "interop: ok (without a gateway)"
    exit 0
fi

net=$work/net
contrib=$root/gateway-adapter/contrib
doors=("$python" "$here/doors.py")
start_validators
open_with rich holder-0 100
open_with front holder-1 100
open_with behind holder-2 100
open_with poor holder-1 0.001
open_account empty holder-1
open_account gone holder-2
write_gateway_home
start_gateway
if [[ $mode == --litellm ]]; then
    drive_litellm forward "$gateway" counted
    drive_litellm meter "$engine/v1" worst
    exit 0
fi
drive rich "$gateway"
echo "interop: ok, through the gateway"
JWT=$(tally auth jwt --key "$net/keys/holder-0.key") \
    "$here/shell.sh" "$tools/npm" "$tools/shell/bin/python" "$TALLY_NODE" "$TALLY_GENESIS"
echo "interop: ok, with anybody's tools"

start_service free
free=$service
start_nginx nginx "$free" "$(address "$gateway")"
front=$nginx
new_usage_log gateway
drive front "http://$nginx/v1"
echo "interop: ok, through nginx"

"${doors[@]}" revoke "$gateway" "$(<"$work/gone.apikey")"
keys=$(<"$work/rich.apikey"),$(<"$work/empty.apikey"),$(<"$work/gone.apikey")
"${doors[@]}" admission "http://$nginx/free/x" "$keys" "$work/free.requests"
start_envoy envoy-authz "$free"
authz=$envoy
"${doors[@]}" admission "http://$authz/x" "$keys" "$work/free.requests"
echo "interop: ok, admission by nginx and by Envoy"

start_service one --hang-up
one=$service
start_service two --hang-up
start_nginx nginx-once "$free" "$one" "$service"
"${doors[@]}" once "http://$nginx/v1" "$(<"$work/front.apikey")" "$work/one.requests" "$work/two.requests"
echo "interop: ok, nothing is sent twice"

new_usage_log nginx
start_envoy envoy "$engine"
inner=$envoy
start_envoy envoy-edge "$inner"
drive behind "http://$envoy/v1" --envoy
envoy=$inner
echo "interop: ok, through two Envoys, the second with its gateway"

new_usage_log envoy
open_with killed holder-0 100
kill_midway killed "http://$envoy/v1" "$gateway_pid"
start_gateway
charged_for killed estimated
echo "interop: ok, the gateway killed while it streams"

stop_gateway TERM
"${doors[@]}" closed "http://$envoy/v1" "$(<"$work/behind.apikey")" "$work/usage.jsonl"
"${doors[@]}" shut "http://$authz/x" "$(<"$work/rich.apikey")" 503 "$work/free.requests"
"${doors[@]}" shut "http://$front/free/x" "$(<"$work/rich.apikey")" 500 "$work/free.requests"
echo "interop: ok, no door opens without the gateway"
