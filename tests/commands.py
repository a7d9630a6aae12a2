"""Commands of the project's, started as a user's shell would."""

from __future__ import annotations

import os
import subprocess
import sys

# A shell that starts something in the background has it ignore Ctrl-C, and its children with it.
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from screening.cli import main
sys.exit(main())
"""


def command(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command.

    Args:
        arguments: as after ``screening``.
        environment: variables besides those here, of which none of Ray's is passed on.
    """
    clean = {name: value for name, value in os.environ.items() if "RAY" not in name}
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", LISTENING, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, **(environment or {})},
    )
