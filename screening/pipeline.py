"""A campaign from its file to its results, and on from wherever it stopped.

This module is light, so that a command says at once what it does; `screening.run` does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from screening.errors import UserError
from screening.grid import check_grid
from screening.status import campaign_status
from screening.store import Store
from screening.views import open_view

if TYPE_CHECKING:
    from screening.campaign import Campaign, Rescoring
    from screening.progress import View
    from screening.run import CampaignResult

LOADING = "loading the libraries, the model and the potential"


def run_campaign(
    campaign: Campaign,
    out: str | None = None,
    *,
    address: str | None = None,
    num_samplers: int | None = None,
    num_cpus: int | None = None,
    view: View | None = None,
) -> CampaignResult:
    """Run a campaign, or go on with it where it stopped.

    Args:
        campaign: What to do.
        out: Where the results go, instead of the campaign's own `output`.
        address: A Ray cluster to join; None starts one on this machine and stops it at the end.
        num_samplers: Samplers at work at once; None leaves it to the machine.
        num_cpus: Cores of the Ray that is started; None takes all.
        view: Where progress is shown; stderr when None.

    Raises:
        UserError: if the campaign or the output cannot be used.
        RunError: if the run was stopped or cannot go on. What is finished stays.
    """
    check_grid(campaign)
    view = view or open_view()
    view.say(LOADING)
    from screening.references import (  # noqa: PLC0415 - takes seconds to import
        FETCHED,
        choose_references,
        fetch_if_absent,
    )
    from screening.rescoring import check_rescoring, keep_setting  # noqa: PLC0415

    campaign = choose_references(campaign, view.say)
    parts = fingerprints(campaign)
    if campaign.rescoring is not None:
        check_rescoring(campaign, campaign.rescoring)
    store = Store(out or campaign.output)
    # Before the directory is claimed: without the network it stays free for another choice.
    fetched = fetch_if_absent(campaign, store)
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    _refuse_company(store)
    if fetched is not None:
        store.write_table(FETCHED, fetched)
    rescoring = keep_setting(store, campaign.rescoring)
    from screening.run import Run  # noqa: PLC0415 - takes seconds to import

    run = Run(store, campaign, parts, rescoring, view)
    return run.carry_out(address, num_samplers, num_cpus)


def resume_campaign(
    out: str,
    *,
    retry_failed: bool = False,
    rescoring: Rescoring | None = None,
    address: str | None = None,
    num_samplers: int | None = None,
    num_cpus: int | None = None,
    view: View | None = None,
) -> CampaignResult:
    """Go on with the campaign in a directory; units that are finished stay as they are.

    Args:
        out: Where the results lie.
        retry_failed: Work on failed units once more, and on candidates that failed with the second
            potential.
        rescoring: A second potential for the best candidates, instead of what was asked for before.
        address: As for `run_campaign`.
        num_samplers: As for `run_campaign`.
        num_cpus: As for `run_campaign`.
        view: As for `run_campaign`.

    Raises:
        UserError: if there is no campaign, or if the model, the potential or the references have
            changed since it began.
        RunError: as for `run_campaign`.
    """
    store = Store(out)
    campaign = store.campaign()
    view = view or open_view()
    view.say(LOADING)
    parts = fingerprints(campaign)
    _refuse_changes(store, campaign, parts)
    _refuse_company(store)
    from screening.rescoring import (  # noqa: PLC0415
        check_rescoring,
        forget_failures,
        keep_setting,
    )

    if rescoring is not None:
        check_rescoring(campaign, rescoring)
    rescoring = keep_setting(store, rescoring)
    if retry_failed:
        store.forget_failed_units()
        if rescoring is not None:
            forget_failures(store, rescoring)
    from screening.run import Run  # noqa: PLC0415 - takes seconds to import

    run = Run(store, campaign, parts, rescoring, view)
    return run.carry_out(address, num_samplers, num_cpus)


def compact_results(out: str) -> int:
    """Merge the files of the finished units in a directory, and return how many units that were.

    Raises:
        UserError: if there is no campaign, or if a run is working on it.
        RunError: if a file cannot be read or written.
    """
    store = Store(out)
    store.require()
    _refuse_company(store)
    store.sweep()
    return store.compact()


def fingerprints(campaign: Campaign) -> dict[str, str]:
    """Return the fingerprints of what a campaign only names.

    Raises:
        UserError: if one of them does not exist or cannot be used.
    """
    from screening.calculators import load_calculator  # noqa: PLC0415
    from screening.references import References, check_scale  # noqa: PLC0415
    from screening.relaxation import VERSION  # noqa: PLC0415
    from screening.sampling import generator_parts  # noqa: PLC0415 - imports torch

    parts = generator_parts(campaign.generator)
    calculator = load_calculator(campaign.relaxation.calculator)
    check_scale(campaign.references, calculator)
    return {
        **parts,
        "calculator": calculator.fingerprint,
        "relaxation": VERSION,
        "references": References.fingerprint_of(campaign.references),
    }


def _refuse_changes(store: Store, campaign: Campaign, parts: dict[str, str]) -> None:
    stored = store.fingerprints
    if campaign.fingerprint(parts) == stored.get("campaign"):
        return
    changed = [
        f"{name} ({stored.get(name)} before, {mark} now)"
        for name, mark in parts.items()
        if stored.get(name) != mark
    ]
    what = ", ".join(changed) or "campaign.yaml"
    raise UserError(
        f"{store.uri} was begun with something else: {what}; its results would not be comparable, "
        f"so start again with `screening run` in another directory"
    )


def _refuse_company(store: Store) -> None:
    """Two runs in one directory would do everything twice."""
    if campaign_status(store)["state"] == "running":
        raise UserError(
            f"{store.uri} is being worked on by another run, which `screening status {store.uri}` "
            f"shows; if that run has been killed, wait a minute"
        )
