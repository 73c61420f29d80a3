#!/bin/sh
# Everything that waits for a GPU, the most important first, within nine minutes.
#   sh benchmarks/gpu.sh OUT [PART ...]
# OUT is the folder for all results; every row is written as soon as it is measured.
# PART is one or more of: truth kernels speed networks training sampling (all of them by default).
#   truth     the kernels against the float64 reference; if anything is wrong, nothing is timed
#   kernels   each kernel alone: errors at the timed sizes, times, graphs, other launch constants
#   speed     the operators beside the limits of the memory, then beside rivals; calls and graphs
#   networks  XL networks beside DiT-XL/2, evaluations;  training: steps;  sampling: what is outside
# A second call with the same OUT goes on with the steps that did not end well.
# Environment: PYTHON (python3), REVISION (of a checkout without git), JOBS (8, for pytest),
#   WHEELS (.whl: a folder of wheels to install beside the checkout, in .site), DRY=1 (no GPU needed:
#   the interpreter, tiny sizes, and no tables that count).
set -u
cd "$(dirname "$0")/.." || exit 2
[ $# -gt 0 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
OUT=$1
shift
case $OUT in truth | kernels | speed | networks | training | sampling)
  echo "expected the folder for the results before the parts, got $OUT; try: sh benchmarks/gpu.sh out $OUT" >&2
  exit 2 ;;
esac
for part in "$@"; do
  case $part in truth | kernels | speed | networks | training | sampling) ;; *)
    echo "expected truth, kernels, speed, networks, training or sampling, got $part" >&2
    exit 2 ;;
  esac
done
parts=${*:-truth kernels speed networks training sampling}
mkdir -p "$OUT" || exit 2
OUT=$(cd "$OUT" && pwd)
PYTHON=${PYTHON:-python3} JOBS=${JOBS:-8} DRY=${DRY:-} WHEELS=${WHEELS:-.whl}
export BENCH_OUT="$OUT" BENCH_REVISION="${REVISION:-}"
export PYTHONUNBUFFERED=1 GOMP_SPINCOUNT=20000 KINETO_LOG_LEVEL=99 HF_HUB_OFFLINE=1
begun=$(date +%s)
failed=

if ls "$WHEELS"/*.whl >/dev/null 2>&1; then
  "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target .site "$WHEELS"/*.whl || exit 2
fi
export PYTHONPATH=".site:.${PYTHONPATH:+:$PYTHONPATH}"

# What is missing is said before anything starts.
"$PYTHON" - "$DRY" <<'EOF' || exit 2
import importlib.util, sys
needed = "torch triton numpy numba msgspec beartype jaxtyping hypothesis pytest xdist pytest_timeout "
needed += "safetensors huggingface_hub PIL tqdm"
missing = [name for name in needed.split() if importlib.util.find_spec(name) is None]
if missing:
    sys.exit(f"expected the packages {', '.join(missing)}, got none; put their wheels into .whl")
if importlib.util.find_spec("deformops") is None:
    print("without the rival deformops, whose wheel would lie in .whl")
import torch
if not (torch.cuda.is_available() or sys.argv[1]):
    sys.exit("expected a GPU that torch can use, found none; try DRY=1")
EOF
if [ -z "$DRY" ]; then
  command -v nvidia-smi >/dev/null && nvidia-smi -L
  command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
    { echo "expected a C compiler, which Triton needs, found none; install gcc" >&2; exit 2; }
  flow=flowdcn-xl/2 dico=dico-xl how=blocks quick= patience=1
else
  flow=flowdcn-s/2 dico=dico-s how=none quick="--quick --dirty" patience=30 # two busy cores, interpreted
  export TRITON_INTERPRET=1
fi

step() { # step SECONDS NAME COMMAND...: done once in OUT, and its exit code
  limit=$1 name=$2 from=$(date +%s)
  shift 2
  if grep -qsx "$name 0 .*" "$OUT/steps.txt"; then echo "== $name: done before"; return 0; fi
  printf '\n== %s: %s\n' "$name" "$*"
  timeout -k 5 $((limit * patience)) "$@"
  code=$?
  took=$(($(date +%s) - from))
  echo "$name $code $took" >>"$OUT/steps.txt"
  echo "== $name: exit code $code after $took s of $limit, $(($(date +%s) - begun)) s in all"
  [ $code = 0 ] || failed="$failed $name ($code)"
  return $code
}

tests="tests/ops/deform/test_gpu.py tests/ops/deform/test_gpu_gradient_kernels.py"
tests="$tests tests/ops/depthwise/test_gpu.py tests/nn/test_deform.py"
throughput="$PYTHON benchmarks/models/throughput.py --precision bfloat16 --compile $how --rounds 3 $quick"

truth() {
  # shellcheck disable=SC2086
  step 110 truth "$PYTHON" -m pytest -q -n "$JOBS" --dist worksteal --tb=short -rf \
    -p no:cacheprovider $tests && return
  if [ -z "$DRY" ] && command -v compute-sanitizer >/dev/null; then
    step 60 sanitizer compute-sanitizer --tool memcheck --print-limit 5 "$PYTHON" -m pytest -q -x \
      --tb=short -p no:cacheprovider tests/ops/deform/test_gpu.py
  fi
  return 1
}
kernels() { step 100 kernels "$PYTHON" benchmarks/ops/kernels_gpu.py $quick; }
speed() {
  step 40 deform "$PYTHON" benchmarks/ops/deform_gpu.py --dtypes bfloat16 float32 --rounds 5 $quick
  step 30 depthwise "$PYTHON" benchmarks/ops/depthwise_gpu.py --dtypes bfloat16 --rounds 5 $quick
  step 40 rivals "$PYTHON" benchmarks/ops/deform_gpu.py --rivals --dtypes bfloat16 --rounds 3 $quick
}
networks() {
  step 110 networks $throughput --models $flow $dico --modes forward --batch 64 --sizes 256 512 \
    --float32-rival $dico --table throughput_gpu_xl_forward
}
training() {
  step 75 training $throughput --models $flow $dico --modes training --batch 64 --sizes 256 \
    --table throughput_gpu_xl_training
}
sampling() {
  step 35 sampling "$PYTHON" benchmarks/samplers/network_share.py --variants eager --rounds 2 $quick
}

for part in $parts; do
  $part && continue
  case $part in truth | kernels)
    echo "what is wrong has no speed: the $part failed, so nothing more runs" >&2
    exit 1 ;;
  esac
done
echo "== all took $(($(date +%s) - begun)) s${failed:+; these failed, with their exit codes (124: out of time):$failed}"
[ -z "$failed" ]
