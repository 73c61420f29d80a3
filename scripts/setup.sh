#!/bin/sh
# Make one virtual environment with convflow in it, the same way with and without a GPU.
#   EXTRAS=demo VENV=.venv PYTHON=python3 sh scripts/setup.sh
set -eu
VENV=${VENV:-.venv}; EXTRAS=${EXTRAS:-demo}; TORCH=${TORCH:-$(grep '^torch==' constraints.txt)}
say() { echo "setup: $*"; }

# 1. Python 3.11 or newer
if [ ! -x "$VENV/bin/python" ]; then
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      say "making $VENV with $("$candidate" --version)"
      "$candidate" -m venv "$VENV"; break
    fi
  done
  [ -x "$VENV/bin/python" ] || { echo "setup: needs Python 3.11 or newer; name it with PYTHON=..." >&2; exit 2; }
fi
py=$VENV/bin/python

# 2. an installer: uv is several times faster; without it plain pip does the same
if "$py" -m pip install -q --disable-pip-version-check uv 2>/dev/null; then
  install() { "$VENV/bin/uv" pip install -q --python "$py" "$@"; }; uv=1
else
  install() { "$py" -m pip install -q --disable-pip-version-check "$@"; }; uv=0
fi

# 3. torch first, and only if there is none
wheels=
if ! "$py" -c 'import torch' 2>/dev/null; then
  tag=cp$("$py" -c 'import sys; print("%d%d" % sys.version_info[:2])')
  for folder in ${TORCH_WHEELS:-} ${UV_FIND_LINKS:-} ${PIP_FIND_LINKS:-} \
      $("$py" -m pip config get global.find-links 2>/dev/null || :); do
    if ls "$folder"/torch-*"$tag"*.whl >/dev/null 2>&1; then wheels=$folder; break; fi
  done
  if [ -n "$wheels" ]; then
    say "installing $TORCH from $wheels"
    install --find-links "$wheels" "$TORCH"
  elif [ $uv = 1 ] && say "installing the build of $TORCH that fits this machine" \
      && install --torch-backend=auto "$TORCH"; then :
  else
    say "installing the registry's build of $TORCH (may bring CUDA along; runs on the CPU too)"
    install "$TORCH"
  fi
fi

# 4. the project; torch is pinned to what is there, so nothing can replace it, nor the triton it brought
say "installing convflow[$EXTRAS]"
"$py" - > "$VENV/torch.txt" <<'EOF'
from importlib.metadata import distributions
there = {d.metadata["Name"]: d.version for d in distributions()}
print(*(f"{name}=={there[name]}" for name in ("torch", "triton") if name in there), sep="\n")
EOF
sed 's/==.*/==/; s/^/^/' "$VENV/torch.txt" > "$VENV/pinned.txt"
grep -v -f "$VENV/pinned.txt" constraints.txt > "$VENV/constraints.txt"
# shellcheck disable=SC2086
install ${wheels:+--find-links $wheels} -c "$VENV/torch.txt" -c "$VENV/constraints.txt" -e ".[$EXTRAS]"

# 5. a torchvision that does not fit torch breaks other libraries at import, with misleading errors
"$py" - <<'EOF'
import importlib.util, sys, torch
if torch.version.cuda is None and sys.platform == "linux" and importlib.util.find_spec("torchvision"):
    sys.exit("setup: a torchvision lies beside a CPU torch; remove it: pip uninstall torchvision")
gpu = "with a GPU" if torch.cuda.is_available() else "no GPU needed"
print(f"setup: ready, torch {torch.__version__}, {gpu}")
EOF
