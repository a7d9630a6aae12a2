"""The commands of ``screening evaluate``."""
# ruff: noqa: D301 - \b keeps the line of an example whole in the help
# ruff: noqa: PLC0415 - imports that take time stand inside the commands that need them
# ruff: noqa: T201 - printing is what a command line does

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer

from screening.options import (
    AsJson,
    Calculator,
    Checkpoint,
    Cores,
    RayAddress,
    SamplerName,
    integer,
)

evaluate = typer.Typer(
    help="Measure how good the engine is, on crystals that are known.", no_args_is_help=True
)


@evaluate.command()
def rediscovery(
    *,
    targets: Annotated[
        Path, typer.Option(metavar="F.json", help="Known crystals: input and answer of each.")
    ],
    out: Annotated[Path, typer.Option(metavar="R.json", help="The result to write.")],
    samples: Annotated[
        int, typer.Option(metavar="N", parser=integer("--samples", 1), help="Per target.")
    ] = 50,
    generator: Annotated[
        str, typer.Option(metavar="model|random", help="The model, or random crystals.")
    ] = "model",
    checkpoint: Checkpoint = "default",
    sampler: SamplerName = "default",
    calculator: Calculator = "default",
    seed: Annotated[
        int, typer.Option(metavar="S", parser=integer("--seed", 0), help="As a campaign's seed.")
    ] = 0,
    no_relax: Annotated[
        bool, typer.Option("--no-relax", help="Compare samples as they were drawn only.")
    ] = False,
    address: RayAddress = None,
    cores: Cores = None,
    as_json: AsJson = False,
) -> None:
    """Count how often known crystals are found again.

    Each is searched for by its space group and site counts.
    Stopped, the same command goes on with the targets that are left.

    \b
    Example: screening evaluate rediscovery --targets targets.json --samples 50 --out result.json
    """
    from screening.campaign import Relaxation
    from screening.direct import parse_generator
    from screening.evaluation.figures import result_text
    from screening.views import open_view

    drawn_by = parse_generator(generator, checkpoint, sampler)
    relaxation = None
    if not no_relax:
        relaxation = Relaxation.from_mapping({"calculator": calculator}, "relaxation")
    # Only now the seconds that torch and Ray take to import.
    from screening.evaluation.rediscovery import RediscoverySettings, evaluate_rediscovery

    settings = RediscoverySettings(
        targets, out, samples, seed, generator=drawn_by, relaxation=relaxation
    )
    result = evaluate_rediscovery(settings, open_view(), address=address, num_cpus=cores)
    print(json.dumps(result, indent=1) if as_json else result_text(result))


@evaluate.command()
def generation(  # noqa: PLR0917 - Typer passes options by name
    test: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Real crystals that no generator has seen: Parquet, CSV."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="R.json", help="The result; what makes it resumable lies beside it, in folders."
        ),
    ],
    num: Annotated[
        int,
        typer.Option(
            "--num",
            metavar="N",
            parser=integer("--num", 1),
            help="Crystals to draw, with space groups and site counts of test crystals.",
        ),
    ] = 1000,
    samples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score up to N crystals made elsewhere: Parquet, CSV."),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Score N real crystals of this file, too: the ceiling."),
    ] = None,
    generator: Annotated[
        str, typer.Option(metavar="model|random", help="The model, or random crystals.")
    ] = "model",
    checkpoint: Checkpoint = "default",
    sampler: SamplerName = "default",
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="S", parser=integer("--seed", 0), help="Of every choice."),
    ] = 0,
    address: RayAddress = None,
    cores: Cores = None,
    as_json: AsJson = False,
) -> None:
    """Compare what the model draws with test crystals.

    The same command goes on after a stop.

    \b
    Example: screening evaluate generation --test test.parquet --train train.parquet --out R.json
    """
    from screening.evaluation.settings import GenerationSettings
    from screening.views import open_view

    settings = GenerationSettings(
        test, out, num, samples, train, generator, checkpoint, sampler, seed
    )
    settings.check()
    view = open_view()
    view.say("loading the libraries and the model")
    from screening.evaluation.generation import evaluate_generation
    from screening.evaluation.table import result_text

    result = evaluate_generation(settings, view, address=address, num_cpus=cores)
    print(json.dumps(result, indent=1) if as_json else result_text(result))
