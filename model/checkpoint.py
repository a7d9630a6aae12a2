"""Checkpoints: weights, configuration and training record in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from model.length_prior import LengthPrior
from model.network import NetworkConfig, ScoreNetwork
from model.noise import NoiseSchedule
from model.shipped import DEFAULT_CHECKPOINT, fingerprint, shipped

_FORMAT = "crystal-screening score model 1"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says which and why."""


@dataclass(frozen=True)
class ScoreModel:
    """A trained network with everything that says where it comes from."""

    network: ScoreNetwork
    length_prior: LengthPrior
    training_record: dict[str, Any]
    fingerprint: str
    """First 16 hexadecimal digits of the SHA-256 of weights and configuration."""

    @property
    def config(self) -> NetworkConfig:
        """Sizes of the network."""
        return self.network.config


def checkpoint_path(name: str) -> Path:
    """Return the file of a shipped checkpoint (``default``, ``mp20``, ``mp2024``) or of a user's path.

    Raises:
        CheckpointError: if there is no such checkpoint.
    """
    known = shipped()
    if name == "default":
        name = DEFAULT_CHECKPOINT
    if name in known:
        return known[name]
    path = Path(name)
    if not path.is_file():
        names = ", ".join(["default", *known])
        message = f"checkpoint must be one of {names} or a .safetensors file, got {name!r}"
        raise CheckpointError(message)
    return path


def save_checkpoint(
    path: Path,
    network: ScoreNetwork,
    length_prior: LengthPrior,
    training_record: dict[str, Any],
) -> None:
    """Write a checkpoint beside its target, then rename it."""
    metadata = {
        "format": _FORMAT,
        "network": json.dumps(asdict(network.config)),
        "schedule": json.dumps(asdict(network.schedule)),
        "length_prior": json.dumps(asdict(length_prior)),
        "training_record": json.dumps(training_record),
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    write_beside(path, save(weights, metadata))


def write_beside(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it."""
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(content)
    beside.replace(path)


def load_checkpoint(name: str = "default", device: torch.device | str = "cpu") -> ScoreModel:
    """Load a shipped checkpoint or a user's file.

    Raises:
        CheckpointError: if the file is missing, truncated, not safetensors or not of this form.
    """
    path = checkpoint_path(name)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        message = f"checkpoint {path} is not a complete safetensors file ({error})"
        raise CheckpointError(message) from error
    if metadata.get("format") != _FORMAT:
        message = (
            f"checkpoint {path} must have the format {_FORMAT!r}, got {metadata.get('format')!r}"
        )
        raise CheckpointError(message)
    try:
        with torch.device("meta"):  # nothing is allocated before the shapes are compared
            network = ScoreNetwork(
                NetworkConfig(**json.loads(metadata["network"])),
                NoiseSchedule(**json.loads(metadata["schedule"])),
            )
        for key, weight in weights.items():
            if weight.dtype != torch.float32 or not weight.isfinite().all():
                message = f"{key} is not of finite 32-bit numbers"
                raise ValueError(message)  # noqa: TRY301 - the same sentence for all faults
        network.load_state_dict(weights, assign=True)
        prior = LengthPrior(**json.loads(metadata["length_prior"]))
        record = json.loads(metadata["training_record"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # recursion is a RuntimeError
        message = f"checkpoint {path} does not describe a score model ({error})"
        raise CheckpointError(message) from error
    return ScoreModel(
        network=network.to(device).eval(),
        length_prior=prior,
        training_record=record,
        fingerprint=fingerprint({k: v.numpy() for k, v in weights.items()}, metadata),
    )
