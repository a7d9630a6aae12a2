"""The figures of an evaluation as a short table."""

from __future__ import annotations

from typing import Any

from screening.evaluation.work import GENERATED, TRAIN

Row = dict[str, Any]


def result_text(result: Row) -> str:
    """Return the figures as a short table."""
    columns = {GENERATED: "generated", TRAIN: "training crystals"}
    found = {columns[name]: scores for name, scores in result["scores"].items()}
    lines = [f"{'':34}" + "".join(f"{name:>20}" for name in found)]
    for key, label in _LABELS.items():
        values = "".join(f"{_number(scores[key]):>20}" for scores in found.values())
        lines.append(f"{label:34}{values}")
    test = result["test"]
    lines.append(f"against {test['crystals']} crystals of {test['file']}, in {result['wall_s']} s")
    return "\n".join(lines)


_LABELS = {
    "crystals": "crystals",
    "without_fingerprint": "of which without fingerprint",
    "cov_precision": "COV-P",
    "cov_recall": "COV-R",
    "cov_precision_apart": "COV-P as CDVAE's code has it",
    "cov_recall_apart": "COV-R as CDVAE's code has it",
    "frechet_crystalnn": "Fréchet distance, CrystalNN",
    "frechet_embedding": "Fréchet distance, CHGNet",
    "valid": "valid structures",
    "smact_valid": "charge-neutral by SMACT",
}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
