"""The figures of an evaluation, against cases worked by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from screening.evaluation.fingerprints import N_COMPOSITION, N_STRUCTURE
from screening.evaluation.metrics import (
    Coverage,
    Fingerprints,
    Standardiser,
    coverage,
    frechet_distance,
)
from screening.evaluation.scores import Comparison

if TYPE_CHECKING:
    from numpy.typing import NDArray


def on_a_line(structure: list[float], composition: list[float]) -> Fingerprints:
    """Crystals whose fingerprints are single numbers; cut-offs are 0.4 and 10."""
    return Fingerprints(np.array(structure)[:, None], np.array(composition)[:, None])


REAL = on_a_line([0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 50.0, 50.0])


def test_coverage_of_points_on_a_line() -> None:
    # The first is close to real 0, the second to no structure, the third to real 2 at the cut-offs.
    generated = on_a_line([0.3, 1.5, 2.4], [5.0, 0.0, 60.0])
    assert coverage(generated, REAL, 3) == Coverage(2 / 3, 2 / 4, 2 / 3, 2 / 4)


def test_close_in_structure_to_one_and_in_composition_to_another_is_a_miss() -> None:
    # Structure of real 0, composition of reals 2 and 3: CDVAE's code takes it for a hit.
    assert coverage(on_a_line([0.0], [50.0]), REAL, 1) == Coverage(0.0, 0.0, 1.0, 0.0)
    # Real 0 has its structure in the first and its composition in the second.
    generated = on_a_line([0.0, 9.0], [50.0, 0.0])
    assert coverage(generated, REAL, 2) == Coverage(0.0, 0.0, 1 / 2, 1 / 4)


def test_failures_count_as_misses() -> None:
    assert coverage(REAL, REAL, 4) == Coverage(1.0, 1.0, 1.0, 1.0)
    assert coverage(REAL, REAL, 16) == Coverage(0.25, 1.0, 0.25, 1.0)
    nothing = Fingerprints(np.zeros((0, 1)), np.zeros((0, 1)))
    assert coverage(nothing, REAL, 5) == Coverage(0.0, 0.0, 0.0, 0.0)


def test_coverage_of_many_equals_brute_force() -> None:
    generator = np.random.default_rng(0)
    generated = Fingerprints(generator.normal(size=(1100, 2)), 9 * generator.normal(size=(1100, 3)))
    real = Fingerprints(generator.normal(size=(60, 2)), 9 * generator.normal(size=(60, 3)))
    close = np.array(
        [
            [
                np.linalg.norm(s - t) <= 0.4 and np.linalg.norm(c - d) <= 10.0
                for t, d in zip(real.structure, real.composition, strict=True)
            ]
            for s, c in zip(generated.structure, generated.composition, strict=True)
        ]
    )
    found = coverage(generated, real, 1100)
    assert found.precision == pytest.approx(close.any(axis=1).mean())
    assert found.recall == pytest.approx(close.any(axis=0).mean())
    assert 0.05 < found.precision < 0.95


def with_moments(mean: list[float], covariance: list[list[float]]) -> NDArray[np.float64]:
    """Return points with exactly these moments."""
    points = np.random.default_rng(3).normal(size=(50, len(mean)))
    points -= points.mean(axis=0)
    own = np.atleast_2d(np.cov(points, rowvar=False))
    white = points @ np.linalg.inv(np.linalg.cholesky(own)).T
    return np.asarray(white @ np.linalg.cholesky(np.array(covariance)).T + mean)


def test_frechet_distance_of_two_normal_distributions_on_a_line() -> None:
    # (m1 - m2)^2 + (s1 - s2)^2 = 3^2 + (2 - 5)^2
    distance = frechet_distance(with_moments([1.0], [[4.0]]), with_moments([4.0], [[25.0]]))
    assert distance == pytest.approx(18.0)


def test_frechet_distance_with_diagonal_covariances() -> None:
    # The means are 1 + 4 apart, the deviations (1 - 3)^2 + (2 - 2)^2 + (5 - 1)^2.
    first = with_moments([0.0, 0.0, 0.0], np.diag([1.0, 4.0, 25.0]).tolist())
    second = with_moments([1.0, 2.0, 0.0], np.diag([9.0, 4.0, 1.0]).tolist())
    assert frechet_distance(first, second) == pytest.approx(25.0)


def test_frechet_distance_with_covariances_that_do_not_commute() -> None:
    # For 2 x 2 matrices Tr((AB)^(1/2))^2 = Tr(AB) + 2 sqrt(det(AB)): 2 + 2 + 4 here.
    first, second = [[1.0, 0.0], [0.0, 4.0]], [[2.0, 1.0], [1.0, 1.0]]
    product = np.array(first) @ np.array(second)
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    distance = frechet_distance(with_moments([0, 0], first), with_moments([0, 0], second))
    assert distance == pytest.approx(5 + 3 - 2 * root)


def test_frechet_distance_of_points_that_span_no_space() -> None:
    flat = np.array([[0.0, 0.0], [2.0, 0.0]])  # variances 2 and 0
    assert frechet_distance(flat, flat) == pytest.approx(0.0, abs=1e-12)
    assert frechet_distance(flat, flat + np.array([0.0, 3.0])) == pytest.approx(9.0)
    assert frechet_distance(flat[:1], flat) is None


def test_standardising_gives_mean_zero_and_deviation_one() -> None:
    scale = Standardiser.of(np.array([[1.0, 7.0], [3.0, 7.0]]))
    assert scale(np.array([[4.0, 7.0], [2.0, 9.0]])).tolist() == [[2.0, 0.0], [0.0, 2.0]]


def described(structure: float, composition: float) -> dict[str, Any]:
    return {
        "structure": [structure] * N_STRUCTURE,
        "composition": [composition] * N_COMPOSITION,
        "embedding": [structure],
        "valid": True,
        "smact_valid": False,
        "error": None,
    }


def test_a_crystal_without_fingerprint_is_in_every_share() -> None:
    real = [described(0.0, 1.0), described(1.0, 3.0)]
    nothing = dict.fromkeys(("structure", "composition", "embedding"))
    failed = {**described(0, 0), **nothing, "valid": False, "error": "sampling diverged"}
    scores = Comparison(real).compare([*real, failed, failed])
    assert (scores["crystals"], scores["without_fingerprint"]) == (4, 2)
    assert (scores["cov_precision"], scores["cov_recall"]) == (0.5, 1.0)
    assert (scores["valid"], scores["smact_valid"]) == (0.5, 0.0)
    assert scores["frechet_crystalnn"] == pytest.approx(0.0, abs=1e-9)
    assert scores["errors"] == {"sampling diverged": 2}
