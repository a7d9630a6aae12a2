"""A campaign as a Ray job: what is sent to the cluster, and what its log says.

The job runs `screening run` on the cluster's head. A directory goes with it that holds the campaign
file, the files that it names, and this package, so that the nodes need the libraries but not the
package. What is sent is copied to a directory of its own first: Ray leaves out what git ignores.
No variable of the environment is sent: a job's settings can be read by all who reach the cluster,
and keys to an object store belong to its nodes.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import model
import screening
from model.checkpoint import checkpoint_path
from screening.campaign import Campaign
from screening.cluster import Jobs
from screening.errors import RunError, UserError, shown
from screening.object_store import check_remote_uri, is_remote
from screening.yaml_file import write_settings

if TYPE_CHECKING:
    from collections.abc import Callable

CAMPAIGN_FILE = "campaign.yaml"
_NOT_SENT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def submit_campaign(campaign: Campaign, address: str, out: str) -> str:
    """Start a campaign as a job of a cluster, or go on with it, and return the job's id.

    Args:
        campaign: What to do.
        address: The cluster's dashboard, as in ``http://HEAD:8265``.
        out: Where the results go: a URI, or an absolute path that the cluster's head has.

    Raises:
        UserError: if an argument cannot be used.
        RunError: if the cluster cannot be reached or refuses.
    """
    check_output(out)
    with tempfile.TemporaryDirectory(prefix="screening-job-") as directory:
        pack(campaign, Path(directory))
        arguments = ["run", CAMPAIGN_FILE, "--out", out, "--address", "auto"]
        entrypoint = shlex.join(["python", "-m", "screening.cli", *arguments])
        return Jobs(address).submit(entrypoint, directory)


def follow(job: str, address: str, say: Callable[[str], None]) -> None:
    """Pass on a job's log until the job ends.

    Args:
        job: The job's id.
        address: As for `submit_campaign`.
        say: Takes the text as it comes.

    Raises:
        RunError: if the job does not succeed.
    """
    status, message = Jobs(address).follow(job, say)
    if status != "SUCCEEDED":
        reason = (message or "").strip().splitlines()
        because = f" ({reason[0]})" if reason else ""
        raise RunError(f"job {job} ended as {status}{because}; submitting it again goes on with it")


def stop_job(job: str, address: str) -> str:
    """End a job and return how it ended, as in ``STOPPED``; what it finished stays.

    Args:
        job: The job's id.
        address: As for `submit_campaign`.

    Raises:
        RunError: if there is no such job, or it does not end.
    """
    return Jobs(address).stop(job)


def check_output(out: str) -> None:
    """Refuse a place that the job could not leave its results in.

    Raises:
        UserError: if it is a relative path, or a URI that cannot be used.
    """
    if is_remote(out):
        check_remote_uri(out)
    elif not Path(out).is_absolute():
        raise UserError(
            f"--out is {shown(out)}; a job needs a URI (s3:// or gs://) or an absolute path that "
            f"the cluster's head reaches"
        )


def pack(campaign: Campaign, directory: Path) -> None:
    """Fill a directory with what a job needs: package, campaign, and the files that it names.

    Raises:
        UserError: if one of these files cannot be read.
    """
    for package in (model, screening):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, directory / source.name, ignore=_NOT_SENT)
    settings: dict[str, Any] = campaign.resolved()
    del settings["output"]  # --out says it
    checkpoint, references = settings["generator"]["checkpoint"], settings["references"]
    if checkpoint_path(checkpoint) == Path(checkpoint):  # and not one of the package's own
        settings["generator"]["checkpoint"] = _sent(checkpoint, directory, "generator.checkpoint")
    if references not in Campaign.REFERENCES:
        settings["references"] = _sent(references, directory, "references")
    (directory / CAMPAIGN_FILE).write_text(write_settings(settings), encoding="utf-8")


def _sent(name: str, directory: Path, field: str) -> str:
    """Copy a file that the campaign names, and return its name in the job's directory."""
    source = Path(name).expanduser()
    if not source.is_file():
        raise UserError(f"{field} is {shown(name, 200)}; there is no such file")
    shutil.copy(source, directory / source.name)
    return source.name
