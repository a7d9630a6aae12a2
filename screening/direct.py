"""The commands that work on the model itself, without a campaign and without a cluster."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from screening.campaign import METHODS, RANDOM, Filters, Generator
from screening.chemistry import check_element, chemical_system_name, space_group_number
from screening.errors import RunError, UserError, shown
from screening.grid import Cell, cell_units, skip_reason
from screening.schema import SAMPLE_SCHEMA, table_from_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from model.training import TrainingConfig

UNIT_SIZE = 32
"""Samples at once, as in a campaign's default, so that the same seed gives the same crystals."""

_MAY_BE_WIDER = {"hidden", "bottleneck"}
"""Sizes of the network that training may give a checkpoint it goes on from."""

_SITES = re.compile(r"([A-Za-z]{1,2})=([0-9]{1,3})")


def parse_cell(sites: str, space_group: str) -> Cell:
    """Read the cell of ``--sites Cu=1,K=1,Si=1 --space-group 62``.

    Raises:
        UserError: if either is not allowed, or if the group cannot hold that many sites.
    """
    counts: dict[str, int] = {}
    for part in sites.split(","):
        match = _SITES.fullmatch(part.strip())
        if match is None or not int(match[2]):
            raise UserError(
                f"--sites holds {shown(part)}; allowed: Element=number with a number from 1, "
                f"joined by commas, such as Cu=1,K=2"
            )
        if match[1] in counts:
            raise UserError(f"--sites holds {match[1]} twice; each element may be given once")
        counts[match[1]] = int(match[2])
    try:
        for element in counts:
            check_element(element, "--sites")
        system = chemical_system_name("-".join(counts), "--sites")
        number = space_group_number(space_group, "--space-group")
    except ValueError as error:
        raise UserError(str(error)) from None
    cell = Cell(system, number, {element: counts[element] for element in system.split("-")})
    reason = skip_reason(cell, Filters().max_atoms)
    if reason is not None:
        raise UserError(f"--sites is {shown(sites)}; {reason}")
    return cell


def parse_generator(method: str, checkpoint: str, sampler: str) -> Generator:
    """Read the generator of ``--generator``, ``--checkpoint`` and ``--sampler``.

    Raises:
        UserError: if one of them is not allowed.
    """
    if method not in METHODS:
        raise UserError(f"--generator is {shown(method)}; allowed: {', '.join(METHODS)}")
    for option, value in (("--checkpoint", checkpoint), ("--sampler", sampler)):
        if method == RANDOM and value != "default":
            raise UserError(
                f"{option} is {shown(value)}; allowed with --generator random: none, since random "
                f"crystals come from no model"
            )
    values = {"method": method, "checkpoint": checkpoint, "sampler": sampler}
    return Generator.from_mapping(values, "generator")


def parse_table_path(path: Path) -> Path:
    """Check that a table can be written before work is spent on it.

    Raises:
        UserError: if it cannot.
    """
    if path.suffix != ".parquet":
        raise UserError(f"--out is {shown(str(path))}; allowed: a file name that ends in .parquet")
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--out is {shown(str(path))}; allowed: a file in a directory that exists")
    return path


def draw_samples(
    cell: Cell,
    n_samples: int,
    seed: int,
    generator: Generator,
    out: Path,
    report: Callable[[str], None],
) -> None:
    """Draw samples of one cell and write them as a table with the columns of ``samples/``.

    Raises:
        UserError: if the checkpoint or the sampler is not there or cannot be used.
        RunError: if the table cannot be written.
    """
    from screening.graphs import prepare_units  # noqa: PLC0415 - torch takes seconds to import
    from screening.sampling import generator_parts, sampling_stage  # noqa: PLC0415

    try:
        generator_parts(generator)
        stage = sampling_stage(generator, Filters().max_atoms)
        stage.setup()
    except ValueError as error:  # the model's errors say what is wrong and what is allowed
        raise UserError(str(error)) from None
    rows: list[dict[str, Any]] = []
    for unit in cell_units(cell, n_samples, UNIT_SIZE, seed):
        rows += stage(prepare_units([unit]))
        report(f"{len(rows)} of {n_samples} samples drawn")
    write_table(table_from_rows(rows, SAMPLE_SCHEMA), out)


def fetch_references(systems: Sequence[str], out: Path, report: Callable[[str], None]) -> None:
    """Fetch the known phases of chemical systems and write them as a file of reference phases.

    Raises:
        UserError: if a system is not one, or if there is no key.
        RunError: if the Materials Project cannot be reached or the file cannot be written.
    """
    from screening.materials_project import fetch_phases  # noqa: PLC0415 - for this command alone

    try:
        names = [chemical_system_name(system, "--chemsys") for system in systems]
    except ValueError as error:
        raise UserError(str(error)) from None
    table = fetch_phases(names)
    write_table(table, out)
    version = table.schema.metadata[b"db_version"].decode()
    report(f"{table.num_rows} phases of the Materials Project, version {version}")


def write_table(table: Any, out: Path) -> None:
    """Write a table as Parquet.

    Raises:
        RunError: if it cannot be written.
    """
    try:
        pq.write_table(table, out, compression="zstd")
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror or error}") from None


def train_model(
    data: Sequence[Path],
    out: Path,
    config: Path | None,
    start_from: str | None,
    report: Callable[[str], None],
    *,
    workers: int | None = None,
    address: str | None = None,
) -> None:
    """Train a score model, from random weights or from those of a checkpoint.

    Args:
        data: Files of crystals.
        out: The checkpoint to write.
        config: A YAML file of `model.training.TrainingConfig`.
        start_from: A checkpoint's name or path.
        report: Gets a line every now and then.
        workers: Processes that train together, on a GPU each where there are some; without it this
            process trains by itself.
        address: A Ray cluster for them to run in; None starts one on this machine.

    Raises:
        UserError: if a file is missing or a setting is not allowed.
        RunError: if a worker failed.
    """
    from model.dataset import DataError  # noqa: PLC0415 - torch takes seconds to import
    from model.training import train  # noqa: PLC0415

    for path in data:
        if not path.exists():
            raise UserError(f"--data is {shown(str(path), 200)}; there is no such file")
    if out.suffix != ".safetensors":
        raise UserError(
            f"--out is {shown(str(out), 200)}; allowed: a file name that ends in .safetensors"
        )
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out is {shown(str(out), 200)}; there is no such directory")
    settings, widen = _training_settings(config, goes_on=start_from is not None)
    out = out.absolute()  # workers have directories of their own
    if address is not None and workers is None:
        raise UserError("--address needs --workers, the number of processes that train there")
    if workers and settings.batch_size % workers:
        raise UserError(
            f"--workers is {workers}; allowed: a divisor of batch_size, which is "
            f"{settings.batch_size}"
        )

    def launch(function: Callable[[Callable[[str], None]], None]) -> None:
        from screening.cluster import Cluster  # noqa: PLC0415 - imports Ray

        with Cluster(address) as cluster:
            cluster.train(function, workers or 1, out.parent, report)

    try:
        train(
            data,
            out,
            settings,
            start_from=start_from,
            widen=widen,
            report=report,
            launch=launch if workers else None,
        )
    except DataError as error:
        raise UserError(str(error)) from None


def _training_settings(
    config: Path | None, *, goes_on: bool
) -> tuple[TrainingConfig, dict[str, int]]:
    """Return the settings of a file, and the sizes that a checkpoint's network shall have."""
    from model.training import TrainingConfig  # noqa: PLC0415
    from screening.yaml_file import read_settings  # noqa: PLC0415

    values = read_settings(config) if config else {}
    try:
        settings = TrainingConfig.from_dict(values)
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{config}: {error}") from None
    if not goes_on:
        return settings, {}
    sizes = set(values.get("network", {}))
    fixed = {"schedule"} & set(values) | {f"network.{s}" for s in sizes - _MAY_BE_WIDER}
    if fixed:
        raise UserError(
            f"{config}: {min(fixed)} is given; with --start-from it is that of the checkpoint, so "
            f"leave it out"
        )
    return settings, {size: getattr(settings.network, size) for size in sizes}
