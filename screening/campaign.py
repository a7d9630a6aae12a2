"""The campaign file: what to search, how, and where the results land.

A campaign that constructs is usable: every rule that a file can break is checked here, and each
breach is one sentence that names the field, the value and what is allowed.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from screening.chemistry import (
    MOST_ELEMENTS,
    check_element,
    chemical_system_name,
    space_group_numbers,
)
from screening.errors import shown
from screening.settings import Settings, refuse_duplicates
from screening.yaml_file import parse_settings, read_settings, write_settings

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_SEED = 2**63 - 1
_FINGERPRINT_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_REMOTE_SCHEMES = ("s3", "gs")
RANDOM = "random"
METHODS = ("model", RANDOM)
"""Of generators."""
_LONGEST_PATH = 1000


def _elements(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        for symbol in value:
            check_element(symbol, "chemical_systems.elements")
    return value


class Combinations(Settings):
    """Every chemical system of ``arity`` elements out of ``elements``."""

    elements: Annotated[
        tuple[str, ...],
        BeforeValidator(_elements),
        Field(strict=False, min_length=1, description="a list of element symbols"),
    ]
    arity: int = Field(
        ge=1,
        le=MOST_ELEMENTS,
        description=f"the number of elements of a system, an integer from 1 to {MOST_ELEMENTS}",
    )

    @model_validator(mode="after")
    def _enough_elements(self) -> Self:
        refuse_duplicates(self.elements, "chemical_systems.elements")
        if self.arity > len(self.elements):
            raise ValueError(
                f"chemical_systems.arity is {self.arity}; with {len(self.elements)} elements it "
                f"must be an integer from 1 to {len(self.elements)}"
            )
        return self


class Sites(Settings):
    """How many symmetry-inequivalent sites each element takes."""

    per_element: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        strict=False,
        min_length=1,
        description="a list of numbers of inequivalent sites, each an integer from 1 to 100",
    )
    total_max: int = Field(
        ge=1,
        le=1000,
        description="an integer from 1 to 1000, the most inequivalent sites of a crystal",
    )

    @field_validator("per_element")
    @classmethod
    def _different_counts(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        refuse_duplicates(counts, "sites.per_element")
        return tuple(sorted(counts))


class Generator(Settings):
    """What draws crystals: the model, or a search at random for comparison."""

    method: str = Field(
        default="model",
        description="model, or random for symmetric random crystals",
    )
    checkpoint: str = Field(
        default="default",
        min_length=1,
        max_length=_LONGEST_PATH,
        description="`default` or the path of a checkpoint",
    )
    sampler: str = Field(
        default="default", min_length=1, max_length=64, description="the name of a sampler"
    )
    unit_size: int = Field(
        default=32,
        ge=1,
        le=10_000,
        description="an integer from 1 to 10000, the samples of one unit of work",
    )

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError
        return method

    @model_validator(mode="after")
    def _random_has_no_model(self) -> Self:
        for name in ("checkpoint", "sampler"):
            if self.method == RANDOM and getattr(self, name) != "default":
                raise ValueError(
                    f"generator.{name} is {shown(getattr(self, name))}; with the method random "
                    f"there is no model, so that it must be left out"
                )
        return self


class Filters(Settings):
    """What a sample must satisfy to be relaxed."""

    min_distance: float = Field(
        default=0.5,
        ge=0,
        le=10,
        description="a number from 0 to 10 (Å), the shortest distance between atoms",
    )
    max_atoms: int = Field(
        default=60,
        ge=1,
        le=10_000,
        description="an integer from 1 to 10000, the most atoms of a primitive cell",
    )
    min_distance_ratio: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="a number from 0 to 2, the shortest distance over the sum of the two atoms' "
        "covalent radii, or null",
    )
    max_density: float | None = Field(
        default=None, gt=0, le=1000, description="a number above 0 and up to 1000 (g/cm³), or null"
    )
    max_volume_per_atom: float | None = Field(
        default=None, gt=0, le=10_000, description="a number above 0 and up to 10000 (Å³), or null"
    )
    smact_valid: bool = Field(
        default=False,
        description="true, to keep only compositions that SMACT finds charge-neutral, or false",
    )


OPTIONAL_FILTERS = ("min_distance_ratio", "max_density", "max_volume_per_atom", "smact_valid")
"""Filters that only some campaigns set."""


class Relaxation(Settings):
    """How samples are relaxed."""

    calculator: str = Field(
        default="default",
        min_length=1,
        max_length=200,
        description="`default`, the name of a potential, or `module:factory`",
    )
    fmax: float = Field(
        default=0.05,
        gt=0,
        le=10,
        description="a number above 0 and up to 10 (eV/Å), the largest force left",
    )
    max_steps: int = Field(
        default=200,
        ge=1,
        le=100_000,
        description="an integer from 1 to 100000, the most steps of the optimiser",
    )
    give_up_above: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="a number from 0 to 10 (eV/atom): crystals that cannot be expected to come as "
        "close to the hull of the reference phases are not relaxed to the end; or null",
    )
    device: Literal["cpu", "gpu"] = Field(
        default="cpu",
        description="`cpu`, or `gpu`: on the GPUs, beside the samplers, where the cluster has any",
    )


class Rescoring(Settings):
    """A second potential for the best candidates."""

    calculator: str = Field(
        min_length=1,
        max_length=200,
        description="the name of a potential, or `module:factory`",
    )
    top: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        description="an integer from 1 to 1000000, the distinct candidates that are relaxed again",
    )


def _systems_kind(value: Any) -> str:
    return "combinations" if isinstance(value, (dict, Combinations)) else "systems"


def _systems(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        names = [chemical_system_name(item, "chemical_systems") for item in value]
        refuse_duplicates(names, "chemical_systems")
        return names
    return value


class Campaign(Settings):
    """One campaign: a grid of cells, the settings of every stage, and the output directory."""

    name: str = Field(
        description="1 to 64 letters, digits, points, hyphens or underscores, with a letter or "
        "digit first"
    )
    chemical_systems: Annotated[
        Annotated[
            tuple[str, ...],
            BeforeValidator(_systems),
            Field(strict=False, min_length=1),
            Tag("systems"),
        ]
        | Annotated[Combinations, Tag("combinations")],
        Discriminator(_systems_kind),
    ] = Field(
        description="a list of systems such as [Cu-K-Si], or {elements: [Cu, K, Si, P], arity: 3}"
    )
    space_groups: Annotated[
        tuple[int, ...], BeforeValidator(space_group_numbers), Field(strict=False)
    ] = Field(
        description="a preset (common32, sultanov2023) or a list of numbers 16 to 230 or symbols"
    )
    sites: Sites = Field(description="the keys per_element and total_max")
    samples_per_cell: int = Field(ge=1, le=1_000_000, description="an integer from 1 to 1000000")
    seed: int = Field(
        default=0, ge=0, le=_LARGEST_SEED, description="an integer from 0 to 2^63 - 1"
    )
    generator: Generator = Field(
        default=Generator(), description="the keys method, checkpoint, sampler and unit_size"
    )
    filters: Filters = Field(
        default=Filters(), description=f"the keys {', '.join(Filters.model_fields)}"
    )
    relaxation: Relaxation = Field(
        default=Relaxation(),
        description="the keys calculator, fmax, max_steps, give_up_above and device",
    )
    references: str = Field(
        default="auto",
        max_length=_LONGEST_PATH,
        description="auto, mp, prototypes, or the path of a file that ends in .csv or .parquet",
    )
    rescoring: Rescoring | None = Field(
        default=None, description="the keys calculator and top, or null"
    )
    output: str = Field(
        default="results/<name>",
        max_length=_LONGEST_PATH,
        description="a path, or a URI that starts with s3:// or gs://",
    )

    REFERENCES: ClassVar[tuple[str, ...]] = ("auto", "mp", "prototypes")
    REFERENCE_FILES: ClassVar[tuple[str, ...]] = (".csv", ".parquet")

    @field_validator("name")
    @classmethod
    def _safe_name(cls, name: str) -> str:
        # The name becomes part of paths.
        if not _NAME.fullmatch(name):
            raise ValueError
        return name

    @field_validator("references")
    @classmethod
    def _known_references(cls, references: str) -> str:
        if references not in cls.REFERENCES and not references.endswith(cls.REFERENCE_FILES):
            raise ValueError
        return references

    @field_validator("output")
    @classmethod
    def _known_scheme(cls, output: str) -> str:
        scheme = _SCHEME.match(output)
        wrong_scheme = scheme is not None and scheme[1] not in _REMOTE_SCHEMES
        if wrong_scheme or not output or not output.isprintable():
            raise ValueError
        return output

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, values: Any) -> Any:
        if isinstance(values, dict) and "output" not in values and "name" in values:
            return {**values, "output": f"results/{values['name']}"}
        return values

    @model_validator(mode="after")
    def _sites_fit(self) -> Self:
        fewest = self.smallest_arity * min(self.sites.per_element)
        if self.sites.total_max < fewest:
            raise ValueError(
                f"sites.total_max is {self.sites.total_max}; with {self.smallest_arity} elements "
                f"of {min(self.sites.per_element)} or more sites each it must be at least {fewest}"
            )
        return self

    @property
    def smallest_arity(self) -> int:
        """The number of elements of the smallest chemical system."""
        if isinstance(self.chemical_systems, Combinations):
            return self.chemical_systems.arity
        return min(system.count("-") + 1 for system in self.chemical_systems)

    @classmethod
    def from_text(cls, text: str, source: str) -> Self:
        """Read a campaign from the text of a YAML file."""
        return cls.from_mapping(parse_settings(text, source), source)

    @classmethod
    def from_yaml(cls, path: Path | str) -> Self:
        """Read a campaign file.

        Raises:
            UserError: if the file is missing, is not YAML or breaks a rule of the campaign.
        """
        return cls.from_mapping(read_settings(path), str(path))

    def resolved(self) -> dict[str, Any]:
        """Return every setting, defaults and presets written out, as plain JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the resolved campaign as the text of a campaign file."""
        return write_settings(self.resolved())

    def fingerprint(self, parts: dict[str, str]) -> str:
        """Return 16 hexadecimal digits that change whenever the results may.

        Args:
            parts: fingerprints of what the campaign only names, such as
                ``{"model": …, "calculator": …, "references": …}``.
        """
        settings = self.resolved()
        del settings["output"]  # the same results may lie anywhere
        del settings["rescoring"]  # it comes afterwards and changes no other column
        for name in OPTIONAL_FILTERS:
            # Unset, it is as if the key did not exist: campaigns from before it stay what they are.
            if not settings["filters"][name]:
                del settings["filters"][name]
        if settings["relaxation"]["give_up_above"] is None:
            del settings["relaxation"]["give_up_above"]
        if settings["relaxation"]["device"] == "cpu":
            del settings["relaxation"]["device"]
        if settings["generator"]["method"] == "model":
            del settings["generator"]["method"]  # results from before there was a choice go on
        text = json.dumps({"campaign": settings, "parts": parts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_LENGTH]
