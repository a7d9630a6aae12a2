"""The directive ``model-card``: what a shipped checkpoint says of its own training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from sphinx.util.docutils import SphinxDirective

from model.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from docutils import nodes

BLUE, ORANGE = "#2f6db3", "#d9822b"


class ModelCard(SphinxDirective):
    """Data, effort, settings, learning curve and validation losses of a checkpoint."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a list, a figure and a table."""
        name = self.arguments[0]
        model = load_checkpoint(name)
        record = model.training_record
        figure = Path(self.env.srcdir) / "figures" / f"learning-{name}.svg"
        draw_curve(record["learning_curve"], figure)
        network = record["config"]["network"]
        n_weights = sum(weight.numel() for weight in model.network.parameters())
        lines = [
            f"- Fingerprint `{model.fingerprint}`, {n_weights:,} weights",
            f"- Last stage of training: {_stage(record)}, torch {record['torch']}",
            *(
                f"- Went on from `{part['fingerprint']}`: {_stage(part)}"
                for part in _before(record)
            ),
            f"- In all {sum(part['hours'] for part in (record, *_before(record))):.2f} h",
            (
                f"- Batches of {record['config']['batch_size']}, learning rate "
                f"{record['config']['learning_rate']:g} with a cosine to zero, decay "
                f"{record['config']['ema']:g} of the average of weights that is shipped, at most "
                f"{record['config']['max_sites']} inequivalent sites"
            ),
            (
                f"- {network['n_blocks']} blocks of width {network['hidden']}, "
                f"{network['n_neighbours']} neighbours within {network['cutoff']:g} Å"
            ),
            "",
            f"![Losses against steps](figures/{figure.name})",
            "",
            (
                f"Losses of {record['validation_crystals']:,} validation crystals, in units of the "
                f"noise; a predictor of zero has the other column."
            ),
            "",
            "| noise of positions, Å | loss | zero | noise of lengths, L3 | loss | zero |",
            "| --- | --- | --- | --- | --- | --- |",
            *(_row(losses) for losses in record["validation"]),
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def draw_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Draw the training losses of the last stage, each a mean since the point before."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curve", "font.size": 9}):
        figure = Figure(figsize=(6, 2.6))
        axes = figure.subplots()
        steps = [point["step"] for point in curve]
        for kind, color in (("position", BLUE), ("length", ORANGE)):
            axes.plot(steps, [point[f"{kind}_loss"] for point in curve], color, label=f"{kind}s")
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def _before(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the stages that a checkpoint went on from, the latest first."""
    part = record.get("started_from")
    return [part, *_before(part)] if part else []


def _stage(part: dict[str, Any]) -> str:
    # Records of the first checkpoints repeat the number of crystals with each file.
    files = [data["file"] if isinstance(data, dict) else data for data in part["data"]]
    n_crystals = part["crystals"] if "crystals" in part else part["data"][0]["crystals"]
    return (
        f"{n_crystals:,} crystals of {' and '.join(f'`{file}`' for file in files)}, "
        f"{part['steps']:,} steps ({part['epochs']:.1f} epochs), {part['hours']:.2f} h on "
        f"{part['hardware'].replace('1 threads', 'one thread')}"
    )


def _row(losses: dict[str, float]) -> str:
    names = ("position_sigma", "position_loss", "position_loss_of_zero")
    names += ("length_sigma", "length_loss", "length_loss_of_zero")
    return f"| {' | '.join(f'{losses[name]:.3f}' for name in names)} |"
