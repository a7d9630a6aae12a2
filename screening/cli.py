"""The command line: every command parses, builds one object and calls one function.

Results go to stdout and everything else to stderr. The exit status is 0, 1 when something failed,
or 2 when it was asked for wrongly.
"""
# ruff: noqa: D301 - \b keeps the line of an example whole in the help
# ruff: noqa: PLC0415 - imports that take time stand inside the commands that need them
# ruff: noqa: T201 - printing is what a command line does

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.errors import RunError, ScreeningError, UserError
from screening.evaluation.commands import evaluate
from screening.options import (
    AsJson,
    Calculator,
    Checkpoint,
    NumSamplers,
    RayAddress,
    SamplerName,
)
from screening.options import integer as _integer
from screening.terminal import coloured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from screening.store import Store

FAILED = 1
BAD_USAGE = 2
TOP = 10
"""How many candidates a run prints."""

# Typer has carried a click of its own since 0.26; its public errors lead to either.
_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
_CLICK_ERROR: Any = _USAGE_ERROR.__mro__[1]

app = typer.Typer(
    name="screening",
    help="Find stable crystals: from the names of elements to a ranked table of candidates.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

references = typer.Typer(
    help="Known phases that candidates are measured against.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(references, name="references")
app.add_typer(evaluate, name="evaluate")

CampaignFile = Annotated[
    Path, typer.Argument(metavar="CAMPAIGN.yaml", help="The campaign file.", show_default=False)
]
Results = Annotated[
    str,
    typer.Argument(
        metavar="DIR|URI", help="The directory or URI of a campaign's results.", show_default=False
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from screening.versions import versions_text

        print(versions_text())
        raise typer.Exit


@app.callback()
def _common(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of the package, its checkpoints and its libraries, and stop.",
        ),
    ] = False,
) -> None:
    pass


@app.command()
def plan(campaign: CampaignFile, as_json: AsJson = False) -> None:
    """Print what `run` would do, and its cost.

    It counts cells, units and samples, says which cells are skipped and why, and does nothing.

    \b
    Example: screening plan examples/cu-k-si-quick.yaml
    """
    from screening.campaign import Campaign
    from screening.plan import plan as planned
    from screening.plan import plan_text

    result = planned(Campaign.from_yaml(campaign))
    print(json.dumps(result, indent=1) if as_json else plan_text(result))


@app.command()
def run(
    campaign: CampaignFile,
    out: Annotated[
        str | None, typer.Option(metavar="DIR|URI", help="Instead of the campaign's `output`.")
    ] = None,
    address: RayAddress = None,
    num_samplers: NumSamplers = None,
) -> None:
    """Run a campaign and print the best candidates.

    It goes on with a campaign that was interrupted.

    \b
    Example: screening run examples/cu-k-si-quick.yaml
    """
    from screening.campaign import Campaign
    from screening.grid import check_grid

    read = Campaign.from_yaml(campaign)
    check_grid(read)
    # Only now the seconds that torch and Ray take to import.
    from model.sampler import sampler_name
    from screening.pipeline import run_campaign

    try:
        sampler_name(read.generator.sampler)
    except ValueError as error:
        raise UserError(f"{campaign}: generator.{error}") from None
    target = out or read.output
    try:
        run_campaign(read, target, address=address, num_samplers=num_samplers)
    except KeyboardInterrupt:
        raise RunError(f"stopped; `screening resume {target}` goes on") from None
    _print_best(target)


@app.command()
def resume(
    results: Results,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try what failed once more.")
    ] = False,
    address: RayAddress = None,
    num_samplers: NumSamplers = None,
) -> None:
    """Go on with a campaign that was interrupted.

    It prints the best candidates at the end, as `run` does.

    \b
    Example: screening resume results/cu-k-si-quick
    """
    _open(results)
    from screening.pipeline import resume_campaign

    try:
        resume_campaign(
            results, retry_failed=retry_failed, address=address, num_samplers=num_samplers
        )
    except KeyboardInterrupt:
        raise RunError(f"stopped; `screening resume {results}` goes on") from None
    _print_best(results)


@app.command()
def rescore(
    results: Results,
    calculator: Calculator,
    top: Annotated[
        int,
        typer.Option(
            metavar="N", parser=_integer("--top", 1), help="How many distinct candidates."
        ),
    ] = 100,
    address: RayAddress = None,
) -> None:
    """Relax the best candidates with a second potential.

    They come first in the table, in the order in which it places them. An unfinished campaign is
    finished before, and what was relaxed with the same potential already is not done again.

    \b
    Example: screening rescore results/cu-k-si-quick --calculator sevennet-0 --top 20
    """
    from screening.campaign import Rescoring

    _open(results)
    rescoring = Rescoring.from_mapping({"calculator": calculator, "top": top}, "rescore")
    from screening.pipeline import resume_campaign

    try:
        resume_campaign(results, rescoring=rescoring, address=address)
    except KeyboardInterrupt:
        raise RunError(f"stopped; `screening resume {results}` goes on") from None
    _print_best(results)


@app.command()
def submit(
    campaign: CampaignFile,
    address: Annotated[
        str, typer.Option(metavar="http://HEAD:8265", help="The dashboard of a Ray cluster.")
    ],
    out: Annotated[
        str, typer.Option(metavar="URI", help="A URI, or an absolute path that the head reaches.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Show the job's log until it ends.")
    ] = False,
) -> None:
    """Run a campaign as a job of a Ray cluster.

    It prints the job's id; the same command goes on with a campaign that was interrupted.

    \b
    Example: screening submit c.yaml --address http://HEAD:8265 --out s3://bucket/c --follow
    """
    from screening.campaign import Campaign
    from screening.grid import check_grid

    read = Campaign.from_yaml(campaign)
    check_grid(read)
    # Only now the seconds that torch and Ray take to import.
    from screening import submission

    job = submission.submit_campaign(read, address, out)
    print(job, flush=True)
    if follow:
        try:
            submission.follow(job, address, lambda text: print(text, end="", file=sys.stderr))
        except KeyboardInterrupt:
            _say(f"the job goes on; `screening stop {job} --address {address}` ends it")


@app.command()
def stop(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id that `submit` printed.")],
    address: Annotated[
        str, typer.Option(metavar="http://HEAD:8265", help="The dashboard of the Ray cluster.")
    ],
) -> None:
    """End a job of a Ray cluster.

    It prints how the job ended; submitted again, the campaign goes on.

    \b
    Example: screening stop raysubmit_X1 --address http://HEAD:8265
    """
    from screening import submission

    print(submission.stop_job(job, address))


@app.command()
def compact(results: Results) -> None:
    """Merge the files of finished units.

    A run does so by itself. The command prints how many units they are of.

    \b
    Example: screening compact results/cu-k-si-quick
    """
    from screening.pipeline import compact_results

    print(compact_results(results))


@app.command()
def status(results: Results, as_json: AsJson = False) -> None:
    """Print how far a campaign is.

    It shows counts by state, throughput and the time left, during a run or after it.

    \b
    Example: screening status results/cu-k-si-quick
    """
    from screening.status import campaign_status, status_text

    found = campaign_status(_open(results))
    print(json.dumps(found, indent=1) if as_json else status_text(found))


@app.command()
def report(
    results: Results,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html", help="Where to write it; beside the results, without it."
        ),
    ] = None,
) -> None:
    """Write the report of a campaign as one HTML file.

    It prints where the file is.

    \b
    Example: screening report results/cu-k-si-quick --out report.html
    """
    from screening.report import report_campaign

    print(report_campaign(_open(results), out))


@app.command()
def export(
    results: Results,
    top: Annotated[
        int, typer.Option(metavar="N", parser=_integer("--top", 1), help="How many of the best.")
    ],
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="cif|poscar|extxyz|vasp",
            help="vasp: a directory of inputs each.",
            autocompletion=lambda: ["cif", "poscar", "extxyz", "vasp"],
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the files.")],
) -> None:
    """Write the best candidates as files of crystals.

    It prints the names of the files.

    \b
    Example: screening export results/cu-k-si-quick --top 10 --format cif --out crystals
    """
    from screening.export import export_candidates

    paths = export_candidates(_open(results), top, file_format, out)
    for path in paths:
        print(path)
    if len(paths) < top:
        _say(f"there are {len(paths)} distinct candidates with a place against the hull, not {top}")


@app.command()
def train(
    data: Annotated[
        list[Path],
        typer.Option(metavar="FILE...", help="Crystals: Parquet, CSV with CIF, CIF files."),
    ],
    out: Annotated[Path, typer.Option(metavar="CKPT.safetensors", help="The checkpoint to write.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", hidden=True, show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="F", help="YAML file of training settings.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(metavar="F", help="A checkpoint's name or path, to go on from its weights."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=_integer("--workers", 1),
            help="Train in so many processes of a Ray cluster, on a GPU each.",
        ),
    ] = None,
    address: RayAddress = None,
) -> None:
    """Train a score model on your own crystals.

    It uses a GPU when there is one, and several with --workers; the same command goes on after a
    stop.

    \b
    Example: screening train --data train.parquet --out mine.safetensors
    """
    from screening.direct import train_model

    train_model(
        [*data, *(more or [])],
        out,
        config,
        start_from,
        report=_say,
        workers=workers,
        address=address,
    )
    print(out)


@app.command()
def sample(
    sites: Annotated[
        str, typer.Option(metavar="Cu=1,K=1,Si=1", help="Inequivalent sites of each element.")
    ],
    space_group: Annotated[
        str, typer.Option(metavar="62", help="Number, 16 to 230, or symbol such as Pnma.")
    ],
    out: Annotated[Path, typer.Option(metavar="F.parquet", help="The table to write.")],
    number: Annotated[
        int, typer.Option("-n", metavar="N", parser=_integer("-n", 1), help="How many samples.")
    ] = 1,
    checkpoint: Checkpoint = "default",
    seed: Annotated[
        int, typer.Option(metavar="S", parser=_integer("--seed", 0), help="As a campaign's seed.")
    ] = 0,
    sampler: SamplerName = "default",
    generator: Annotated[
        str, typer.Option(metavar="model|random", help="The model, or random crystals.")
    ] = "model",
) -> None:
    """Draw crystals of one cell without relaxing them.

    It prints where the table is.

    \b
    Example: screening sample --sites Cu=1,K=1,Si=1 --space-group 62 -n 8 --out samples.parquet
    """
    from screening.direct import draw_samples, parse_cell, parse_generator, parse_table_path

    cell, target = parse_cell(sites, space_group), parse_table_path(out)
    drawn_by = parse_generator(generator, checkpoint, sampler)
    draw_samples(cell, number, seed, drawn_by, target, report=_say)
    print(target)


@app.command()
def doctor(
    out: Annotated[
        str, typer.Option(metavar="DIR|URI", help="Where results are to go.")
    ] = "results",
    checkpoint: Checkpoint = "default",
    calculator: Calculator = "default",
    quick: Annotated[bool, typer.Option("--quick", help="Do not start Ray.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether this machine can run a campaign.

    Each check that is not `ok` says what to do. It ends with status 1 if something has to be mended; with a warning a campaign still runs.

    \b
    Example: screening doctor --out results
    """
    from screening.doctor import PROBLEM, check_text, examine

    checks = []
    for check in examine(out, checkpoint, calculator, quick=quick):
        checks.append(check)
        if not as_json:
            print(check_text(check, sys.stdout), flush=True)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    if any(check.state == PROBLEM for check in checks):
        raise typer.Exit(FAILED)


@references.command()
def fetch(
    chemsys: Annotated[
        list[str],
        typer.Option(
            metavar="Cu-K-Si", help="A chemical system, its subsystems included; may be repeated."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="F.parquet", help="The table to write.")],
) -> None:
    """Fetch known phases from the Materials Project.

    The file is for machines without internet; a campaign file names it as `references: F.parquet`.
    The key is read from the environment variable MP_API_KEY.

    \b
    Example: screening references fetch --chemsys Cu-K-Si --out cu-k-si.parquet
    """
    from screening.direct import fetch_references, parse_table_path

    fetch_references(chemsys, parse_table_path(out), report=_say)
    print(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit status: 0, 1 when something failed, 2 when it was asked for wrongly.
    """
    command: Any = typer.main.get_command(app)
    try:
        returned = command.main(
            args=list(sys.argv[1:] if arguments is None else arguments),
            prog_name="screening",
            standalone_mode=False,
        )
    except ScreeningError as error:
        return _fail(str(error), error.exit_status)
    except _CLICK_ERROR as error:
        return _fail(_usage_sentence(error), BAD_USAGE)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", FAILED)
    except BrokenPipeError:
        # The reader of the output has gone, as `head` does; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except ValueError as error:
        if isinstance(error, _mistakes_of_the_model()):
            return _fail(str(error), BAD_USAGE)
        raise
    return returned if isinstance(returned, int) else 0


def _mistakes_of_the_model() -> tuple[type[Exception], ...]:
    """Return the errors of ``model`` that are a user's to mend, if they are loaded at all."""
    names = (("model.checkpoint", "CheckpointError"), ("model.dataset", "DataError"))
    return tuple(
        getattr(sys.modules[module], name) for module, name in names if module in sys.modules
    )


def _usage_sentence(error: Any) -> str:
    """Return click's message, with the way to an example where something was left out."""
    message: str = error.format_message()
    if not message.startswith("Missing ") or error.ctx is None:
        return message
    return f"{message.rstrip('.')}; `{error.ctx.command_path} --help` shows an example"


def _fail(message: str, exit_status: int) -> int:
    if message.startswith("Usage: "):  # the help, for a group without a command
        _say(message)
    elif message:
        _say(f"{coloured('error:', 'red', sys.stderr)} {message}")
    return exit_status


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _open(uri: str) -> Store:
    from screening.store import Store

    store = Store(uri)
    store.require()
    return store


def _print_best(uri: str) -> None:
    """Print the best candidates, and where everything lies."""
    from screening.summary import summary_text

    store = _open(uri)
    print(summary_text(store, TOP))
    marks = store.marks(["state", "error"]).to_pylist()
    if marks and all(mark["state"] == "failed" for mark in marks):
        raise RunError(f"every unit failed, the first with: {marks[0]['error']}")


if __name__ == "__main__":
    sys.exit(main())
