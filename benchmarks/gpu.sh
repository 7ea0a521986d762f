#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: the tests that run on accelerators, then this project beside
# PyTorch. Each part takes at most four minutes. PYTHON names a Python with JAX for CUDA, Flax, Optax,
# Orbax, Pillow, pytest, pytest-xdist, hypothesis, matplotlib and PyTorch; the packages that read data
# are not needed.
#
#     benchmarks/gpu.sh [tests] [train] [svrnn_train] [large] [svrnn] [recurrence] [recurrence_train]
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(tests train svrnn_train large svrnn recurrence recurrence_train)
status=0

"$python" -c 'import jax; print("jax", jax.__version__, jax.devices())' || exit 1
for part in "${parts[@]}"; do
    if [ "$part" = tests ]; then
        DEBLUR_JAX_TEST_PLATFORM=gpu XLA_PYTHON_CLIENT_PREALLOCATE=false timeout 240 "$python" \
            -m pytest -q -m accelerator --override-ini addopts= -n 6 -W default \
            tests/ops tests/models tests/training/test_step.py || status=1
    else
        timeout 240 "$python" -m benchmarks.gpu "$part" || status=1
    fi
done
exit $status
