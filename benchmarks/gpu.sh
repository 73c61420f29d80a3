#!/bin/sh
# Everything that waits for a GPU, within ten minutes: first whether the kernels are right, then how fast
# they and the networks are. Tables go to benchmarks/results/.
#   sh benchmarks/gpu.sh            PYTHON=python3 sh benchmarks/gpu.sh --dirty
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
export PYTHONUNBUFFERED=1

timeout 150 "$PYTHON" -m pytest -q -p no:cacheprovider tests/ops tests/nn/test_deform.py -m "not slow"
timeout 180 "$PYTHON" benchmarks/ops/deform_gpu.py "$@"
timeout 90 "$PYTHON" benchmarks/ops/depthwise_gpu.py "$@"
timeout 145 "$PYTHON" benchmarks/models/throughput.py --models flowdcn-b/2 dico-b --sizes 256 --batch 64 \
  --modes forward training --rounds 5 --no-compile --table throughput_gpu_b_256 "$@"
