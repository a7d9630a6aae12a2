#!/usr/bin/env bash
# Sets up and builds the documentation into build/docs; a warning is an error. Nothing of the pages
# needs a network, neither to be built nor to be read.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
if ! .venv/bin/python -c 'import furo, myst_nb, sphinx' 2>/dev/null; then
    .venv/bin/python -m pip install -qq --no-input --disable-pip-version-check \
        --constraint constraints.txt --editable '.[docs]' </dev/null
fi
exec .venv/bin/python -m sphinx -W --keep-going -n -q -E -b html docs build/docs
