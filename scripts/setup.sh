#!/usr/bin/env bash
# Makes .venv with a Python of at least 3.11 and installs the project into it, with the pinned versions.
# Safe to run again: it returns at once while pyproject.toml and constraints.txt are unchanged.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

environment=.venv
stamp="$environment/.installed"

fail() {
    echo "error: $1" >&2
    exit 1
}

suitable() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3 python3.12 python3.13 python3.14 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null && suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# The path is part of the hash: an environment that was moved or copied does not work.
wanted=$({ pwd; cat pyproject.toml constraints.txt; } | cksum)
if [ -x "$environment/bin/screening" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

if ! suitable "$environment/bin/python" || ! "$environment/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || fail "Python 3.11 or newer was not found; install it, or name one: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make virtual environments (its modules venv or ensurepip are missing; on Debian and Ubuntu: apt install python3-venv)"
    echo "Making $environment with $("$python" --version) ..." >&2
    "$python" -m venv --clear "$environment" || fail "$python could not make the virtual environment $environment"
fi

echo "Installing the project and its dependencies into $environment (about three minutes the first time) ..." >&2
rm -f "$stamp"
# Twice -q leaves errors only. Modules are compiled when they are first imported.
"$environment/bin/python" -m pip install -qq --no-input --disable-pip-version-check --no-compile \
    --constraint constraints.txt --editable '.[test]' </dev/null || fail "the installation failed; pip's message is above"
echo "$wanted" >"$stamp"
