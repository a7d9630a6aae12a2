"""The settings of `screening evaluate generation`, checked before anything heavy is loaded."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from screening.errors import UserError, shown

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class GenerationSettings:
    """What to evaluate. Paths are those of the command line."""

    test: Path
    """Real crystals that no generator has seen."""
    out: Path
    """The result, a JSON file."""
    num: int = 1000
    """Crystals to draw; the most rows of `samples`, and the crystals of `train`, to score."""
    samples: Path | None = None
    """Crystals that were generated elsewhere, to be scored instead."""
    train: Path | None = None
    """Real crystals to score in the same way: how good a perfect generator would look."""
    generator: str = "model"
    """``model`` or ``random``."""
    checkpoint: str = "default"
    sampler: str = "default"
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot work, before time is spent on it.

        Raises:
            UserError: for the first mistake.
        """
        if self.out.suffix != ".json":
            raise UserError(
                f"--out is {shown(str(self.out), 200)}; allowed: a file name that ends in .json"
            )
        if self.out.is_dir() or not self.out.parent.is_dir():
            raise UserError(
                f"--out is {shown(str(self.out), 200)}; allowed: a file in a directory that exists"
            )
        chosen = (self.generator, self.checkpoint, self.sampler)
        if self.samples and chosen != ("model", "default", "default"):
            raise UserError(
                f"--samples is {self.samples}, whose crystals exist already; --generator, "
                f"--checkpoint and --sampler are allowed without it only"
            )
        for option, path in (("--test", self.test), ("--train", self.train)):
            if path is not None and not path.exists():
                raise UserError(f"{option} is {shown(str(path), 200)}; there is no such file")

    @property
    def command(self) -> str:
        """The command that gives the same result."""
        is_random = self.generator == "random"
        options = {
            "--test": self.test,
            "--num": self.num,
            "--samples": self.samples,
            "--train": self.train,
            "--generator": "random" if is_random else None,
            "--checkpoint": None if self.samples or is_random else self.checkpoint,
            "--sampler": None if self.samples or is_random else self.sampler,
            "--seed": self.seed,
            "--out": self.out,
        }
        given = [str(word) for pair in options.items() if pair[1] is not None for word in pair]
        return shlex.join(["screening", "evaluate", "generation", *given])
