"""What an evaluation's workers do: draw crystals for requests, and take crystals' fingerprints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pymatgen.core import Element

from screening.calculators import CHGNetPotential
from screening.errors import first_line
from screening.evaluation.fingerprints import composition_fingerprint, structure_fingerprint
from screening.grid import site_counts_label
from screening.sampling import SamplingStage, crystal_columns, random_columns
from screening.schema import structure_from_row
from screening.screens import shortest_distance, smact_valid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymatgen.core import Structure

Row = dict[str, Any]

SHORTEST_DISTANCE = 0.5
"""Angstrom: a valid crystal has no atoms closer to one another."""
SMALLEST_VOLUME = 0.1
"""Cubic angstrom per cell: a valid crystal has at least that."""

_NUMBERS = pa.list_(pa.float64())
FINGERPRINT_SCHEMA = pa.schema(
    [
        ("structure", _NUMBERS),
        ("composition", _NUMBERS),
        ("embedding", _NUMBERS),
        ("valid", pa.bool_()),
        ("smact_valid", pa.bool_()),
        ("error", pa.string()),
    ]
)
"""Of `FingerprintStage`'s rows. What a crystal does not have is null; `error` says why."""


@dataclass(frozen=True)
class Request:
    """What a generator is asked for, and where its randomness comes from."""

    sample_id: str
    seed: int
    space_group: int
    """16 to 230."""
    site_counts: Mapping[str, int]
    """Element symbol to number of inequivalent sites, in alphabetical order."""

    @property
    def atomic_numbers(self) -> list[int]:
        """The element of each inequivalent site."""
        return [Element(symbol).Z for symbol, n in self.site_counts.items() for _ in range(n)]

    @property
    def columns(self) -> Row:
        """The columns of the results that say what was asked for."""
        return {
            "sample_id": self.sample_id,
            "seed": self.seed,
            "chemical_system": "-".join(self.site_counts),
            "space_group_requested": self.space_group,
            "site_counts": site_counts_label(self.site_counts),
        }


@dataclass(frozen=True)
class ModelGenerator:
    """Draws one crystal for each of a series of requests with the score model."""

    sampling: SamplingStage

    def setup(self) -> None:
        """Load the weights; called once, on the worker."""
        self.sampling.setup()

    def __call__(self, requests: Sequence[Request]) -> list[Row]:
        """Return one row per request, in order: kept, or failed with an error."""
        from model.multigraph import make_batch  # noqa: PLC0415 - needs torch

        sites = [request.atomic_numbers for request in requests]
        batch = make_batch([request.space_group for request in requests], sites)
        crystals = self.sampling.draw(batch, [request.seed for request in requests])
        generator = self.sampling.generator
        return [
            {**request.columns, "generator": generator, **crystal_columns(crystal)}
            for request, crystal in zip(requests, crystals, strict=True)
        ]


@dataclass(frozen=True)
class RandomGenerator:
    """Draws one random crystal for each of a series of requests."""

    max_atoms: int
    """The most atoms in the primitive cell."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, requests: Sequence[Request]) -> list[Row]:
        """Return one row per request, in order: kept, or failed with an error."""
        return [
            {
                **request.columns,
                **random_columns(
                    request.space_group, request.atomic_numbers, self.max_atoms, request.seed
                ),
            }
            for request in requests
        ]


@dataclass(frozen=True)
class FingerprintStage:
    """Takes the fingerprints of crystals and looks whether they are valid."""

    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def setup(self) -> None:
        """Load the potential; called once, on the worker."""
        self._loaded["potential"] = CHGNetPotential().ase()

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """Return a row of `FINGERPRINT_SCHEMA` for each row with or without a crystal."""
        return [self._described(row) for row in rows]

    def _described(self, row: Row) -> Row:
        found: Row = dict.fromkeys(FINGERPRINT_SCHEMA.names)
        if not row["lattice_vectors"]:
            return {**found, "valid": False, "smact_valid": False, "error": row.get("error")}
        try:
            structure = structure_from_row(row)
            _check_volume(structure)
            found["valid"] = is_valid(structure)
            found["smact_valid"] = smact_valid(structure.composition)
            found["composition"] = composition_fingerprint(structure.composition).tolist()
            found["structure"] = _finite(structure_fingerprint(structure))
            if found["valid"]:
                found["embedding"] = _finite(self._embedding(structure))
        except Exception as error:  # noqa: BLE001 - a bad crystal is a record, whatever it raised
            found["error"] = first_line(error)
        return {**found, "valid": bool(found["valid"]), "smact_valid": bool(found["smact_valid"])}

    def _embedding(self, structure: Structure) -> Any:
        with warnings.catch_warnings():
            # CHGNet with torch 2.9 and later; there is nothing that a user could do about it.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
            return self._loaded["potential"].embedding(structure)


def is_valid(structure: Structure) -> bool:
    """Return whether a crystal's atoms are apart and its cell is not flat (as CDVAE has it)."""
    if structure.volume < SMALLEST_VOLUME:
        return False
    return shortest_distance(structure, SHORTEST_DISTANCE) >= SHORTEST_DISTANCE


def _check_volume(structure: Structure) -> None:
    """Refuse a crystal with so many neighbours within any radius that counting takes for ever."""
    per_atom = structure.volume / len(structure)
    if not per_atom > SMALLEST_VOLUME:
        raise ValueError(f"the cell is flat: {per_atom:.3g} Å^3 per atom")


def _finite(numbers: Any) -> list[float]:
    if not np.isfinite(numbers).all():
        raise ValueError("the fingerprint is not finite")
    return [float(number) for number in numbers]
