"""`screening evaluate generation`: how like real crystals are those that a generator draws?

Space groups and site counts are those of crystals of a test file. What is drawn for them, failures
included, is compared with all test crystals whose space group is 16 or above.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from screening.calculators import CHGNetPotential
from screening.campaign import RANDOM, Filters
from screening.cluster import Cluster
from screening.direct import parse_generator
from screening.errors import RunError, UserError, shown
from screening.evaluation import metrics
from screening.evaluation.crystals import KnownCrystals, digest_of, read_samples
from screening.evaluation.provenance import hardware
from screening.evaluation.scores import Comparison
from screening.evaluation.stages import ModelGenerator, RandomGenerator, Request
from screening.evaluation.work import GENERATED, TEST, TRAIN, Work
from screening.evaluation.workspace import Workspace
from screening.grid import sample_seed
from screening.progress import Progress
from screening.sampling import SamplingStage, generator_parts
from screening.signals import terminated_like_interrupted
from screening.versions import versions

if TYPE_CHECKING:
    from screening.evaluation.settings import GenerationSettings
    from screening.pool import Stage
    from screening.progress import View

Row = dict[str, Any]

BATCH = 16
"""Crystals that are drawn together. Part of what decides their last digits, so not an option."""

_FINGERPRINT_PACKAGES = ("pymatgen-core", "spglib", "smact")


def evaluate_generation(
    settings: GenerationSettings,
    view: View,
    *,
    address: str | None = None,
    num_cpus: int | None = None,
) -> Row:
    """Draw crystals or read them, compare them with test crystals, and write the result.

    Args:
        settings: What to do.
        view: Where progress is shown.
        address: A Ray cluster to join; None starts one on this machine and stops it at the end.
        num_cpus: Cores of the Ray that is started; None takes all.

    Returns:
        What is in the file.

    Raises:
        UserError: if a file or a setting cannot be used.
        RunError: if it was stopped or cannot go on. What is finished stays.
    """
    settings.check()
    began = time.perf_counter()
    evaluation = _Evaluation(settings, view)
    with Progress(evaluation.work.stages, view) as progress, terminated_like_interrupted():
        try:
            evaluation.work.carry_out(lambda: Cluster(address, num_cpus), progress)
        except KeyboardInterrupt:
            raise RunError(f"stopped; `{settings.command}` goes on") from None
        progress.do("comparing")
        result = evaluation.result(round(time.perf_counter() - began, 1))
    evaluation.workspace.write_result(result)
    return result


class _Evaluation:
    """One evaluation: what there is to do, and what comes of it."""

    def __init__(self, settings: GenerationSettings, view: View) -> None:
        self.settings = settings
        self.source = _source(settings)
        self.versions = versions()
        self.workspace = Workspace(settings.out, self._method())
        given = read_samples(settings.samples) if settings.samples else None
        view.say("reading the crystals and finding their symmetry")
        self.test = KnownCrystals(settings.test, "--test")
        self.train = KnownCrystals(settings.train, "--train") if settings.train else None
        if given is None:
            self.workspace.claim(self._marks())
        self.workspace.find_symmetries(self.test)
        requests = _requests(self.test, settings) if given is None else []
        ceiling = self.train.drawn(settings.num, settings.seed) if self.train else []
        self.work = Work(
            self.workspace,
            _generator(settings) if given is None else None,
            _batches(requests),
            {
                GENERATED: _chosen(given or [], settings),
                TEST: [self.test.row(index) for index in self.test.usable()],
                TRAIN: [self.train.row(index) for index in ceiling] if self.train else [],
            },
        )

    def _marks(self) -> Row:
        """Return what the generated crystals depend on."""
        return {
            "test": self.test.sha256,
            "num": self.settings.num,
            "seed": self.settings.seed,
            "batch": BATCH,
            **{key: self.source[key] for key in ("generator", "checkpoint_fingerprint", "sampler")},
        }

    def _method(self) -> str:
        """Return what fingerprints depend on."""
        used = [f"{name}-{self.versions[name]}" for name in _FINGERPRINT_PACKAGES]
        return " ".join([*used, CHGNetPotential().fingerprint])

    def result(self, wall_s: float) -> Row:
        """Return everything that belongs to the figures."""
        comparison = Comparison(self.work.fingerprints(TEST))
        scored = [GENERATED, TRAIN] if self.train else [GENERATED]
        scores = {name: comparison.compare(self.work.fingerprints(name)) for name in scored}
        return {
            "command": self.settings.command,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "scores": scores,
            "source": self.source,
            "seed": self.settings.seed,
            "test": {
                **_described(self.test),
                "crystals": len(self.test.usable()),
                "without_fingerprint": comparison.n_without_fingerprint,
            },
            "train": _described(self.train) if self.train else None,
            "method": {
                "structure_cutoff": metrics.STRUCTURE_CUTOFF,
                "composition_cutoff": metrics.COMPOSITION_CUTOFF,
                "composition_scale": "means and standard deviations of the test crystals",
                "structure_fingerprint": "CrystalNN, preset ops, mean over sites",
                "composition_fingerprint": "Magpie, 22 properties, 6 statistics",
                "embedding": CHGNetPotential().fingerprint,
            },
            "wall_s": wall_s,
            "busy_s": self.work.busy_s(),
            "hardware": {**hardware(), "workers": self.work.workers},
            "versions": self.versions,
        }


def _source(settings: GenerationSettings) -> Row:
    """Return where the crystals to be scored come from."""
    if settings.samples:
        if not settings.samples.exists():
            raise UserError(
                f"--samples is {shown(str(settings.samples), 200)}; there is no such file"
            )
        return {"samples": str(settings.samples), "sha256": digest_of(settings.samples)}
    generator = parse_generator(settings.generator, settings.checkpoint, settings.sampler)
    try:
        parts = generator_parts(generator)
    except ValueError as error:  # the model's errors say what is wrong and what is allowed
        raise UserError(str(error)) from None
    return {
        "generator": settings.generator,
        "checkpoint": None if settings.generator == RANDOM else settings.checkpoint,
        "checkpoint_fingerprint": parts["model"],
        "sampler": parts["sampler"],
    }


def _generator(settings: GenerationSettings) -> Stage:
    """Return the stage that turns requests into rows."""
    if settings.generator == RANDOM:
        return RandomGenerator(Filters().max_atoms)
    return ModelGenerator(SamplingStage(settings.checkpoint, settings.sampler))


def _requests(test: KnownCrystals, settings: GenerationSettings) -> list[Request]:
    """Ask for crystals like those drawn; a seed depends on the place in the draw only."""
    requests = []
    for place, index in enumerate(test.drawn(settings.num, settings.seed)):
        symmetry = test.symmetry(index)
        if symmetry is not None:
            name = f"generation-{place:05d}"
            seed = sample_seed(settings.seed, name)
            requests.append(Request(name, seed, symmetry.space_group, symmetry.site_counts))
    return requests


def _batches(requests: list[Request]) -> dict[str, list[Request]]:
    """Put requests of the same group and size together, whose graphs are of one shape."""

    def shape(request: Request) -> tuple[int, int, str]:
        return request.space_group, sum(request.site_counts.values()), request.sample_id

    ordered = sorted(requests, key=shape)
    return {
        f"{first // BATCH:05d}": ordered[first : first + BATCH]
        for first in range(0, len(ordered), BATCH)
    }


def _chosen(rows: list[Row], settings: GenerationSettings) -> list[Row]:
    """Return the rows to score: all, or as many as were asked for, drawn at random."""
    if len(rows) <= settings.num:
        return rows
    import numpy as np  # noqa: PLC0415

    chosen = np.random.default_rng(settings.seed).permutation(len(rows))[: settings.num]
    return [rows[i] for i in sorted(chosen)]


def _described(known: KnownCrystals) -> Row:
    return {"file": str(known.path), "sha256": known.sha256, "rows": len(known)}
