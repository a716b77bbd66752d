#!/usr/bin/env bash
# Checks fine-tuning and generation on this machine's GPU and prints one table.
#
#   tests/gpu/check.sh           run the check: on a GPU if there is one (at most 8 minutes), else small on the CPU
#   tests/gpu/check.sh --cpu     run it small on the CPU
#   tests/gpu/check.sh packages  collect what a machine with torch and transformers but no network lacks, in build/gpu/site
#
# PYTHON names the interpreter (python3). With OUT set, the table is also written to $OUT/gpu.json.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
site=$PWD/build/gpu/site

# All are pure Python for Python 3.12, so they run on any architecture. torchao's compiled kernels
# are of no use here. torch, transformers and what they bring come from the machine itself.
packages=(
    torchtune==0.6.1 torchao==0.15.0 torchdata==0.11.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19
    kagglehub==1.0.2 kagglesdk==0.1.37 omegaconf==2.3.1 hydra-core==1.3.8
)

if [ "${1:-}" = packages ]; then
    rm -rf "$site"
    "$python" -m pip install --quiet --no-deps --no-compile --only-binary=:all: --platform any \
        --implementation py --python-version 3.12 --target "$site" "${packages[@]}"
    # released only as source
    "$python" -m pip install --quiet --no-deps --no-compile --upgrade --target "$site" antlr4-python3-runtime==4.9.3
    rm -rf "$site"/bin "$site"/{dill,multiprocess}/tests "$site"/kagglesdk/test
    du -sh "$site"
    exit
fi

path=$PWD/src
if ! "$python" -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("torchtune"))'; then
    path=$path:$site
fi
PYTHONPATH=$path PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 exec "$python" -m tests.gpu.check "$@"
