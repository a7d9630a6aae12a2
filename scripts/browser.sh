#!/usr/bin/env bash
# Installs the browser that the tests of the report need, where it is missing: on Debian and as root.
# Elsewhere those tests are skipped, and say so.
set -euo pipefail

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "chromium and chromedriver are missing, and this is not root on Debian: the tests of the report's page will be skipped" >&2
    exit 0
fi
echo "Installing chromium and chromium-driver ..." >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
