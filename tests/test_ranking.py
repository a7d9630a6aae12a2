"""The comparison of a chemical system in pieces: nothing is lost, and no formula is divided."""

from __future__ import annotations

from typing import Any

import numpy as np

from screening import ranking
from screening.deduplication import deduplicate, match_references
from screening.prototypes import phases
from screening.ranking import RankingStage, comparisons_of
from screening.schema import CANDIDATE_SCHEMA, structure_columns, table_from_rows


def crowd(size: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Candidates of many formulas, one of them failed, and phases of some of the formulas."""
    rng = np.random.default_rng(0)
    kinds = [s for system in ("Cu-Si", "Al-Cu") for _, s in phases(system) if len(s) <= 4]
    rows = [
        {
            "sample_id": f"s{i:03d}",
            "chemical_system": "Al-Cu-Si",
            "space_group_requested": 225,
            "status": "failed" if i == 0 else "kept",
            "energy_per_atom": float(rng.normal()),
            **structure_columns(kinds[rng.integers(len(kinds))]),
        }
        for i in range(size)
    ]
    references = [
        {"reference_id": f"r{i}", "energy_per_atom": float(i), **structure_columns(kind)}
        for i, kind in enumerate(kinds[::2])
    ]
    return rows, references


def test_the_pieces_hold_every_row_once_and_no_formula_twice(monkeypatch: Any) -> None:
    rows, references = crowd(60)
    monkeypatch.setattr(ranking, "_ROWS_PER_PIECE", 10)
    pieces = comparisons_of(table_from_rows(rows, CANDIDATE_SCHEMA), references)
    assert len(pieces) > 3
    names = [name for piece in pieces for name in piece.rows["sample_id"].to_pylist()]
    assert sorted(names) == [row["sample_id"] for row in rows]
    formulas = [set(piece.rows["chemical_formula_reduced"].to_pylist()) for piece in pieces]
    assert len(set.union(*formulas)) == sum(map(len, formulas))
    for piece, own in zip(pieces, formulas, strict=True):
        assert {row["chemical_formula_reduced"] for row in piece.references} <= own
        assert piece.rows.num_rows <= 10 or len(own) == 1


def test_in_pieces_as_in_one(monkeypatch: Any) -> None:
    rows, references = crowd(60)
    monkeypatch.setattr(ranking, "_ROWS_PER_PIECE", 10)
    found = {
        row["sample_id"]: row
        for piece in comparisons_of(table_from_rows(rows, CANDIDATE_SCHEMA), references)
        for row in RankingStage()(piece).rows.to_pylist()
    }
    expected = match_references(deduplicate(rows), references)
    assert len(found) == len(expected)
    for row in expected:
        assert {name: found[row["sample_id"]][name] for name in row} == row
    assert found["s001"]["cif"].startswith("#")
    assert found["s000"]["cif"] is None


def test_without_rows_there_is_nothing_to_compare() -> None:
    assert comparisons_of(CANDIDATE_SCHEMA.empty_table(), []) == []
