#!/usr/bin/env bash
# What anybody's tools can do with a node: shell.sh NPM PYTHON NODE GENESIS
# runs every `buf curl` line of proto/README.md against NODE (host:port), lints
# the .proto files, compares them with the baseline, and runs the generated
# Python client, whose files the second verifier then checks. JWT in the
# environment is a token of account 0's holder.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
npm=$1 python=$2 node=$3 genesis=$4
export JWT=${JWT:?a token for the node}
PATH=$npm/node_modules/.bin:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

(cd "$root/proto" && buf lint && buf breaking --against baseline.binpb)

asked=0
while IFS= read -r line; do
    line=${line//127.0.0.1:26650/$node}
    # `head` ends a stream that does not end.
    (set +o pipefail; timeout 20 bash -c "$line" >"$work/answer" 2>"$work/error") || true
    if [[ ! -s $work/answer || -s $work/error ]]; then
        echo "no answer to: $line" >&2
        cat "$work/error" >&2
        exit 1
    fi
    asked=$((asked + 1))
done < <(sed -n 's/^    \(buf curl .*\)/\1/p' "$root/proto/README.md")
services=$(grep -h '^  rpc ' "$root"/proto/proto/tally/v1/audit.proto | sed 's/.*rpc \([A-Za-z]*\).*/\1/')
for name in $services; do
    grep -q "AuditService/$name" "$root/proto/README.md" || { echo "no line asks $name" >&2; exit 1; }
done

mkdir "$work/generated"
"$python" -m grpc_tools.protoc -I "$root/proto/proto" \
    --python_out "$work/generated" --grpc_python_out "$work/generated" \
    "$root"/proto/proto/tally/v1/{common,ledger,audit}.proto
PYTHONPATH=$work/generated "$python" "$root/proto/contrib/python/audit.py" "$node" \
    --jwt "$JWT" --account 0 --out "$work/files" >"$work/printed"
grep -q '^entry .* charged' "$work/printed"
"$python" "$root/tests/verifier/tally_verify.py" --quiet --genesis "$genesis" "$work"/files/*
echo "$asked questions answered to buf curl; files of the Python client proven"
