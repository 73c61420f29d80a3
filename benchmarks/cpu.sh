#!/bin/sh
# All CPU tables of docs/performance.md, operator.md and sizes.md, on a machine that does nothing else.
#   sh benchmarks/cpu.sh OUT
# OUT gets the tables, a log, steps.txt with the exit code and seconds of each step, and tables.md, the
# lines of the documents. A step that takes too long is cut: all together take at most 32 minutes.
# Environment: PYTHON (python3), TOO=--dirty to measure changed files.
set -u
cd "$(dirname "$0")/.." || exit 2
[ $# = 1 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1" && OUT=$(cd "$1" && pwd) || exit 2
PYTHON=${PYTHON:-python3}
export BENCH_OUT="$OUT" PYTHONPATH=. PYTHONUNBUFFERED=1 GOMP_SPINCOUNT=20000 KINETO_LOG_LEVEL=99
export MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432  # as the commands do

step() {
  limit=$1
  shift
  begun=$(date +%s)
  # shellcheck disable=SC2086
  timeout "$limit" "$PYTHON" "$@" ${TOO:-} >>"$OUT/log" 2>&1
  echo "$? $(($(date +%s) - begun)) s: $*" | tee -a "$OUT/steps.txt"
}

networks="benchmarks/models/throughput.py --models flowdcn-s/2 dico-s fcdm-s"
# shellcheck disable=SC2086
{
  step 100 benchmarks/ops/deform.py
  step 540 $networks --sizes 256 --batch 2 --rounds 5 --compile blocks --table throughput_cpu_s_256
  step 300 $networks --sizes 512 --batch 1 --rounds 3 --compile none --table throughput_cpu_s_512
  step 140 $networks --sizes 256 --batch 2 --rounds 3 --compile none --precision bfloat16 \
    --table throughput_cpu_s_256_bfloat16
  step 260 benchmarks/models/throughput.py --models flowdcn-b/2 dico-b fcdm-b --sizes 256 --batch 1 \
    --rounds 3 --compile none --table throughput_cpu_b_256
  THP_MEM_ALLOC_ENABLE=1 step 420 benchmarks/models/scaling.py --rounds 1
}

"$PYTHON" - "$OUT" <<'EOF2' | tee "$OUT/tables.md"
import csv, sys
from pathlib import Path

for path in sorted(Path(sys.argv[1]).glob("throughput_cpu_*.csv")):
    rows = list(csv.DictReader(path.open()))
    print(f"\n{path.stem}: {rows[0]['cpu']}, {rows[0]['threads']} threads, torch {rows[0]['torch']}\n")
    print("| network | pass | eager, ms an image | over floor | compiled over floor | utilisation | of plain DiT's eager time |")
    print("|---|---|---|---|---|---|---|")
    for case, mode in dict.fromkeys((row["case"], row["mode"]) for row in rows):
        mine = {r["rival"]: r for r in rows if (r["case"], r["mode"]) == (case, mode)}
        ratio = {name: float(row["ratio"]) for name, row in mine.items()}  # a rival's time over eager's
        best = min(ratio["eager"], ratio.get("compiled", 9))
        eager = {name.partition(" ")[2]: r for name, r in ratio.items() if name.startswith("dit")}
        dit = eager.get("nn.Linear", eager.get(""))
        twice = f"{ratio['compiled'] / ratio['floor']:.2f}" if "compiled" in ratio else ""
        each = float(mine["eager"]["median_ms"]) / int(mine["eager"]["shape"].split("x")[0])
        used = max(float(mine[name].get("utilisation", "nan")) for name in ("eager", "compiled") if name in mine)
        print(f"| {case.split()[0]} | {mode} | {each:.0f} | {1 / ratio['floor']:.2f} | {twice} | {used:.2f} "
              f"| {'' if dit is None else f'{best / dit:.2f}'} |")

def rows_of(name):
    path = Path(sys.argv[1]) / name
    return list(csv.DictReader(path.open())) if path.exists() else []

def table(title, columns, lines):
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")

if rows := rows_of("deform_cpu.csv"):
    rivals = list(dict.fromkeys(row["rival"] for row in rows))
    cases = dict.fromkeys((row["shape"], row["mode"]) for row in rows)
    mine = {(r["shape"], r["mode"], r["rival"]): r for r in rows}
    lines = [[shape, mode, f"{float(mine[shape, mode, rivals[0]]['median_ms']):.1f}",
              *(f"{float(mine[shape, mode, rival]['ratio']):.2f}" for rival in rivals[1:])]
             for shape, mode in cases]
    table("deform_cpu", ["shape", "pass", "ours, ms", *(f"{r} over ours" for r in rivals[1:])], lines)
if rows := rows_of("scaling_cpu.csv"):
    names, shapes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("rival", "shape"))
    found = {(r["shape"], r["rival"]): r for r in rows}
    lines = [[shape, *(f"{float(found[shape, n]['median_ms']):,.0f} ms, "
                       f"{float(found[shape, n]['peak_mib']):.0f} MiB" for n in names)]
             for shape in shapes]
    table("scaling_cpu", ["one image of", *names], lines)
EOF2
