"""What all tests share: quiet, single-threaded libraries, and the crystals that tests name."""

from __future__ import annotations

import os

# Small tensors and two cores: threads of the numerical libraries only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Nothing that a test does not start itself may go online.
os.environ.pop("MP_API_KEY", None)
