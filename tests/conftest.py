"""What all tests share: quiet, single-threaded libraries, and a Ray for those that need one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Small tensors and two cores: threads of the numerical libraries only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Nothing that a test does not start itself may go online.
os.environ.pop("MP_API_KEY", None)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray on two cores that the campaigns of a file share; its workers can import what lies here."""
    from screening.cluster import Cluster  # noqa: PLC0415 - most tests need none

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        with Cluster(num_cpus=2):
            yield
