#!/usr/bin/env bash
# A witness that others have written, beside ours: four validators ask both to
# cosign, both do, and a checkpoint is verified under both keys. Then the other
# one's client hands that checkpoint to our witness.
#
# Needs Python with `pip install aics-witness` (0.1.0) in PYTHON's environment,
# jq, and a built `tally`. Not part of CI.
set -euo pipefail
cd "$(dirname "$0")/../.."
TALLY=${TALLY:-$PWD/target/debug/tally}
PYTHON=${PYTHON:-python3}
dir=$(mktemp -d)
started=()
stop() {
    kill "${started[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap stop EXIT
# Runs beside this script; what it says first goes to a file.
beside() {
    local said=$1
    shift
    "$@" </dev/null >"$said" 2>>err &
    started+=($!)
}
cd "$dir"
"$TALLY" --format json testnet net --validators 4 >net.json
"$TALLY" --format json checkpoint keys --genesis net/genesis.json >keys.json
origin=$(jq -r .log keys.json)

# The other witness knows the log by its name and all of its keys.
"$PYTHON" -m aics_witness init --config other.json --name other.example/w1 \
    --listen 127.0.0.1:17381 >init.out
jq -r '.keys[]' keys.json | while read -r key; do
    "$PYTHON" -m aics_witness add-log --config other.json --origin "$origin" --vkey "$key"
done
other=$(grep -o 'other.example/w1+[0-9a-f]*+[A-Za-z0-9+/=]*' init.out | head -n 1)
beside other.out "$PYTHON" -m aics_witness serve --config other.json

"$TALLY" keypair create w1.key --kind witness >/dev/null
beside ours.json "$TALLY" --format json witness --state w1.state --new \
    --genesis net/genesis.json --key w1.key --name ours.example/w1 --listen 127.0.0.1:17380
until jq -e .witness ours.json >/dev/null 2>&1; do sleep 0.1; done
ours=$(jq -r .witness ours.json)

for i in 0 1 2 3; do
    sed -i 's/^period_ms = .*/period_ms = 500/' "net/v$i/config.toml"
    printf '\n[[witness]]\nurl = "http://127.0.0.1:17380"\nkey = "%s"\n' "$ours" >>"net/v$i/config.toml"
    printf '\n[[witness]]\nurl = "http://127.0.0.1:17381"\nkey = "%s"\n' "$other" >>"net/v$i/config.toml"
    beside "v$i.out" "$TALLY" node --home "net/v$i"
done
node=$(jq -r '.validators[0].grpc' net.json)
http=http://$(jq -r '.validators[0].metrics' net.json)
for _ in $(seq 60); do
    "$TALLY" account open --unit 1 --holder net/keys/holder-0.key --class innovation \
        --genesis net/genesis.json --key net/keys/issuer-0.key --node "$node" >/dev/null 2>&1 && break
    sleep 1
done
both() {
    "$TALLY" checkpoint verify "$http/checkpoint" --genesis net/genesis.json \
        --witness "$ours" --witness "$other" --witnesses 2
}
for _ in $(seq 60); do both >/dev/null 2>&1 && break; sleep 1; done
both
"$TALLY" export tiles site --log "$http" --genesis net/genesis.json
"$TALLY" checkpoint verify site --log site --genesis net/genesis.json --witness "$other" --witnesses 1

# The other one's client hands two checkpoints of this log to a witness of ours
# that has seen none, with proofs of its own making from the exported entries.
beside second.json "$TALLY" --format json witness --state w2.state --new \
    --genesis net/genesis.json --key w1.key --name ours.example/w2 --listen 127.0.0.1:17382
until jq -e .witness second.json >/dev/null 2>&1; do sleep 0.1; done
"$TALLY" account open --unit 2 --holder net/keys/holder-1.key --class innovation \
    --genesis net/genesis.json --key net/keys/issuer-0.key --node "$node" >/dev/null
size=$("$TALLY" --format json checkpoint show site | jq .entries)
for _ in $(seq 60); do
    "$TALLY" export tiles later --log "$http" --genesis net/genesis.json >/dev/null
    [ "$("$TALLY" --format json checkpoint show later | jq .entries)" -gt "$size" ] && break
    sleep 1
done
"$PYTHON" - "$(jq -r .witness second.json)" <<'CODE'
import pathlib, struct, sys
from aics_tlog import MerkleTree
from aics_witness.feeder import submit_checkpoint

tree = MerkleTree()
# The widest bundle is the last log's: it has fewer than 256 entries here.
widest = max(pathlib.Path("later/tile/entries/000.p").iterdir(), key=lambda p: int(p.name))
data, leaves = widest.read_bytes(), []
while data:
    (length,) = struct.unpack(">H", data[:2])
    leaves.append(data[2 : 2 + length])
    data = data[2 + length :]
tree.extend(leaves)
for folder in ("site", "later"):
    note = pathlib.Path(folder, "checkpoint").read_bytes()
    line = submit_checkpoint(
        "http://127.0.0.1:17382", note, tree.consistency_proof, witness_vkey=sys.argv[1]
    )
    print("ours cosigned what their client sent:", line.split()[1])
CODE
echo "both witnesses cosigned, each way"
