#!/bin/sh
# Sets up .venv: Python 3.11 or newer with pip and venv is all it needs. Does nothing where .venv is up to date.
#   ./setup.sh          what mosweep needs to run everything
#   ./setup.sh dev      and what its tests need
# PYTHON=…   the interpreter to use · TORCH_INDEX=…   a package index that holds CPU builds of torch
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
wanted="${1:-run} $(cat pyproject.toml constraints.txt setup.sh | cksum)"
[ -x .venv/bin/python ] && [ "$(cat .venv/mosweep-setup 2>/dev/null)" = "$wanted" ] && exit 0
[ -x .venv/bin/python ] && [ "$(cat .venv/mosweep-setup 2>/dev/null)" = "dev ${wanted#* }" ] && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "mosweep needs Python 3.11 or newer; $python is $("$python" -V 2>&1). Set PYTHON=…" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check install --quiet"

# torch comes as a CUDA build of gigabytes or as a CPU build; a machine without a GPU wants the latter where it is to be had.
torch=$(sed -n 's/^torch==//p' constraints.txt)
if ! .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != '$torch')" 2>/dev/null; then
    if [ -e /dev/nvidia0 ] || [ "$(uname -s)" != Linux ]; then
        $pip "torch==$torch"
    else
        $pip ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "torch==$torch+cpu" 2>/dev/null || {
            echo "no CPU build of torch $torch to be had: installing the default build; TORCH_INDEX=… names an index with CPU builds" >&2
            $pip "torch==$torch"
        }
    fi
fi
extras=all
[ "${1:-run}" = dev ] && extras=all,dev
$pip --constraint constraints.txt --editable ".[$extras]"
echo "$wanted" > .venv/mosweep-setup
