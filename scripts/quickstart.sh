#!/usr/bin/env bash
# Sets up and screens a small part of Cu-K-Si. Arguments go to `screening run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
exec .venv/bin/screening run examples/cu-k-si-quick.yaml "$@"
