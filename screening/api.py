"""The package from Python: a campaign to plan and run, and its results as tables and crystals.

It is as light as the command line: what takes seconds to import is imported by the method that needs
it.
"""
# ruff: noqa: PLC0415 - imports that take time stand inside the methods that need them

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from pymatgen.core import Structure

    from screening.campaign import Campaign as Settings
    from screening.store import Store

_SHOWN = (
    "chemical_formula_reduced",
    "space_group_it_number",
    "e_above_hull",
    "is_novel",
    "sample_id",
)
"""Columns of a notebook's view of the results."""
_PROPERTIES = ("sample_id", "e_above_hull", "is_novel")
"""Columns that a structure carries."""
_MOST_SHOWN = 10


@dataclass(frozen=True)
class Plan:
    """What a campaign would do and what it would cost, as `screening plan` prints it."""

    counts: Mapping[str, Any]
    """Counts of cells, units and samples, skipped cells with reasons, and the estimated cost."""

    def __getitem__(self, name: str) -> Any:
        """Return one of the values, such as ``samples``."""
        return self.counts[name]

    def __str__(self) -> str:
        from screening.plan import plan_text

        return plan_text(dict(self.counts))

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@dataclass(frozen=True)
class Campaign:
    """One campaign and the place that its results land in.

    What a script does, from the file to crystals::

        campaign = Campaign.from_yaml("cu-k-si.yaml")
        print(campaign.plan())
        campaign.run()
        table = campaign.results()
        best = campaign.structures(top=10)

    Example:
        >>> campaign = Campaign.from_settings(
        ...     name="cu-k-si",
        ...     chemical_systems=["Cu-K-Si"],
        ...     space_groups=["Pnma", 194],
        ...     sites={"per_element": [1, 2], "total_max": 4},
        ...     samples_per_cell=60,
        ... )
        >>> campaign.out
        'results/cu-k-si'
        >>> campaign.settings.space_groups
        (62, 194)
    """

    settings: Settings
    """Everything that the campaign file fixes; refuses what is not allowed."""
    out: str
    """Directory or URI of the results."""

    @classmethod
    def from_yaml(cls, path: Path | str, out: Path | str | None = None) -> Self:
        """Read a campaign file.

        Args:
            path: The file.
            out: Where the results go, instead of the file's `output`.

        Raises:
            UserError: If the file is missing, is not YAML or breaks a rule of the campaign.
        """
        from screening.campaign import Campaign as Settings

        return cls._of(Settings.from_yaml(path), out)

    @classmethod
    def from_settings(cls, out: Path | str | None = None, /, **settings: Any) -> Self:
        """Make a campaign from the keys of a campaign file, as keyword arguments.

        Example:
            >>> Campaign.from_settings(name="mine", chemical_systems=["Li-Xx"])
            Traceback (most recent call last):
            screening.errors.UserError: settings: chemical_systems: 'Li-Xx' holds 'Xx'; an element is given by ...

        Raises:
            UserError: If a key is unknown or a value is not allowed.
        """
        from screening.campaign import Campaign as Settings

        return cls._of(Settings.from_mapping(settings), out)

    @classmethod
    def open(cls, out: Path | str) -> Self:
        """Open the results of a campaign, finished or not.

        Example:
            >>> Campaign.open("results/none")
            Traceback (most recent call last):
            screening.errors.UserError: ...

        Raises:
            UserError: If there is no campaign in that place.
        """
        from screening.store import Store

        return cls(Store(str(out)).campaign(), str(out))

    @classmethod
    def _of(cls, settings: Settings, out: Path | str | None) -> Self:
        return cls(settings, settings.output if out is None else str(out))

    def plan(self) -> Plan:
        """Return what a run would do, and what it would cost.

        Example:
            >>> plan = Campaign.from_settings(
            ...     name="salt",
            ...     chemical_systems=["Cl-Na"],
            ...     space_groups=[221, 225],
            ...     sites={"per_element": [1], "total_max": 2},
            ...     samples_per_cell=60,
            ... ).plan()
            >>> plan["cells"], plan["samples"]
            (2, 120)
            >>> print(plan)
            campaign          salt
            output            results/salt
            chemical systems  1
            space groups      2: 221 Pm-3m, 225 Fm-3m
            ...

        Raises:
            UserError: If the campaign asks for what no group admits.
        """
        from screening.plan import plan

        return Plan(plan(self.settings))

    def run(self, address: str | None = None, num_samplers: int | None = None) -> pd.DataFrame:
        """Run the campaign, or go on with it where it stopped.

        Args:
            address: A Ray cluster to join; one is started on this machine and stopped at the end,
                if absent.
            num_samplers: Samplers at work at once; as many as fit, if absent.

        Returns:
            The table of :meth:`results`.

        Raises:
            UserError: If the campaign or the place of its results cannot be used.
            RunError: If it was stopped or cannot go on. What is finished stays.
        """
        from screening.pipeline import run_campaign

        run_campaign(self.settings, self.out, address=address, num_samplers=num_samplers)
        return self.results()

    def rescore(self, calculator: str, top: int = 100, address: str | None = None) -> pd.DataFrame:
        """Relax the best candidates with a second potential; they come first in the table.

        Args:
            calculator: The potential, as in a campaign file.
            top: How many distinct candidates.
            address: As for :meth:`run`.

        Returns:
            The table of :meth:`results`, with the columns ``rescored_*`` filled.

        Raises:
            UserError: If there is no campaign, or the potential cannot be used.
            RunError: As for :meth:`run`.
        """
        from screening.campaign import Rescoring
        from screening.pipeline import resume_campaign

        rescoring = Rescoring.from_mapping({"calculator": calculator, "top": top}, "rescore")
        resume_campaign(self.out, rescoring=rescoring, address=address)
        return self.results()

    def status(self) -> dict[str, Any]:
        """Return counts by state, throughput and the time left, as `screening status --json`."""
        from screening.status import campaign_status

        return campaign_status(self._store)

    def results(self, *, best_only: bool = False) -> pd.DataFrame:
        """Return the candidates, the lowest above the hull first.

        Args:
            best_only: Only those that converged, once each, with a place against the hull: the rows
                that the report ranks.

        Returns:
            One row per candidate with the columns of ``candidates.parquet``.

        Raises:
            UserError: If nothing has been ranked yet.
        """
        frame: pd.DataFrame = (
            self._store.best() if best_only else self._store.candidates()
        ).to_pandas()
        return frame

    def structures(self, top: int | None = None) -> list[Structure]:
        """Return the best candidates as pymatgen structures, the lowest above the hull first.

        Args:
            top: How many, at the most; all distinct ones, if absent.

        Returns:
            Structures whose ``properties`` hold ``sample_id``, ``e_above_hull`` (eV/atom) and
            ``is_novel``.

        Raises:
            UserError: If nothing has been ranked yet.
        """
        from screening.schema import structure_from_row

        found = []
        for row in self._store.best(top).to_pylist():
            structure = structure_from_row(row)
            structure.properties = {name: row[name] for name in _PROPERTIES}
            found.append(structure)
        return found

    def report(self, out: Path | None = None) -> str:
        """Write the report as one HTML file, and return where it lies."""
        from screening.report import report_campaign

        return report_campaign(self._store, out)

    @property
    def _store(self) -> Store:
        from screening.store import Store

        return Store(self.out)

    def _repr_html_(self) -> str:
        """Show a notebook the campaign, and its best candidates as soon as there are some."""
        from screening.errors import ScreeningError

        head = f"<p><b>{escape(self.settings.name)}</b>, results in {escape(self.out)}</p>"
        try:
            table = self._store.best(_MOST_SHOWN, _SHOWN).to_pandas()
        except ScreeningError:
            return head + self.plan()._repr_html_()
        shown: str = table.to_html()
        return head + shown
