#!/bin/sh
# Everything that waits for a GPU, within eight minutes: whether the kernels are right, then how fast they are,
# the networks, their training, and sampling. Tables go to benchmarks/results/ and grow row by row; a step that
# fails or runs out of time leaves the others theirs, and the exit code tells.
#   sh benchmarks/gpu.sh            PYTHON=python3 sh benchmarks/gpu.sh --dirty
#   sh benchmarks/gpu.sh --quick    also without a GPU: what can run there, with small networks, no tables
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
export PYTHONUNBUFFERED=1 GOMP_SPINCOUNT=20000 KINETO_LOG_LEVEL=99
begun=$(date +%s)
failed=

step() { # step SECONDS NAME COMMAND...
  limit=$1 name=$2 from=$(date +%s)
  shift 2
  printf '\n== %s: %s\n' "$name" "$*"
  timeout -k 5 $((limit * patience)) "$@" || failed="$failed $name ($?)"
  echo "== $name took $(($(date +%s) - from)) s of $limit"
}

on_gpu() { # likewise, for a step that needs one
  if [ "$gpu" = True ]; then step "$@"; else echo "== $2 left out: it needs a GPU"; fi
}

gpu=$("$PYTHON" -c 'import torch; print(torch.cuda.is_available())') || exit 2
case " $* " in
*" --quick "*) flow=flowdcn-s/2 dico=dico-s how=none patience=9 ;; # on two cores, beside other work
*) flow=flowdcn-xl/2 dico=dico-xl how=blocks patience=1
   [ "$gpu" = True ] || { echo "expected a GPU that torch can use, found none; try --quick" >&2; exit 2; } ;;
esac
if [ "$gpu" = True ]; then
  command -v nvidia-smi >/dev/null && nvidia-smi -L
  "$PYTHON" -c 'import pytest, triton' || exit 2
  command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
    { echo "expected a C compiler, which Triton needs, found none; install gcc" >&2; exit 2; }
fi

throughput="$PYTHON benchmarks/models/throughput.py --precision bfloat16 --compile $how --rounds 3"
on_gpu 90 truth "$PYTHON" -m pytest -q -p no:cacheprovider tests/ops tests/nn/test_deform.py -k "not compiles or once"
case $failed in *"truth (1)"*) echo "what is wrong has no speed" >&2; exit 1 ;; esac
on_gpu 45 deform "$PYTHON" benchmarks/ops/deform_gpu.py --dtypes bfloat16 float32 --rounds 5 "$@"
on_gpu 40 depthwise "$PYTHON" benchmarks/ops/depthwise_gpu.py "$@"
step 150 networks $throughput --models $flow $dico --modes forward --batch 64 --sizes 256 512 \
  --float32-rival $dico --table throughput_gpu_xl_forward "$@"
step 110 training $throughput --models $flow $dico --modes training --batch 64 --sizes 256 \
  --table throughput_gpu_xl_training "$@"
step 45 sampling "$PYTHON" benchmarks/samplers/network_share.py --rounds 3 "$@"

echo "== all took $(($(date +%s) - begun)) s${failed:+; failed, with their exit codes (124: out of time):$failed}"
[ -z "$failed" ]
