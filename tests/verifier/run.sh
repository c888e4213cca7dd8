#!/usr/bin/env bash
# A second implementation of the verifier, in Python, written from
# ledger/README.md: golden vectors with every bit flipped, then ten thousand
# real files of a chain that ran, each altered too.
#
# Installs blake3 and cryptography into a temporary folder; the chain listens on
# loopback only and ends with this script.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export PYTHONDONTWRITEBYTECODE=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check blake3==1.0.11 cryptography==50.0.2
python=$work/venv/bin/python

(cd "$here" && "$python" -m unittest test_tally_verify test_checkpoint_verify)
(cd "$root" && cargo run --bin tally -- demo --check --requests 16000 --dir "$work/chain")
"$python" "$here/test_tally_verify.py" "$work/chain/genesis.json" "$work/chain/audit" --mutations 4 --least 10000
