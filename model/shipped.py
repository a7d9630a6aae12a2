"""The checkpoints in the package, as far as they can be known without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "checkpoints"
DEFAULT_CHECKPOINT = "mp2024"


def shipped() -> dict[str, Path]:
    """Return the files of the shipped checkpoints, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def fingerprint(weights: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of weights and configuration."""
    digest = hashlib.sha256()
    for key in ("format", "network", "schedule", "length_prior"):
        digest.update(metadata[key].encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].tobytes())
    return digest.hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """Return the fingerprint of a checkpoint's file."""
    with safe_open(path, framework="numpy") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return fingerprint(weights, file.metadata())
