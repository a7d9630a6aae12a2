"""A server on this machine that speaks as much of the Materials Project's protocol as is asked of it.

Its phases are made up by hand.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry, ConstantEnergyAdjustment

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "k" * 32
DB_VERSION = "2026.01.01"
COPPER = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]
).get_primitive_structure()
BODY_CENTRED_COPPER = Structure.from_spacegroup(
    "Im-3m", Lattice.cubic(2.9), ["Cu"], [[0, 0, 0]]
).get_primitive_structure()
GOLD = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.1), ["Au"], [[0, 0, 0]]
).get_primitive_structure()
AU_CU3 = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.75), ["Au", "Cu"], [[0, 0, 0], [0, 0.5, 0.5]]
)
AU_CU = Structure(Lattice.tetragonal(2.85, 3.67), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])

# Name, crystal, eV per atom as computed, correction in eV per atom. Corrected: Cu -4.1, Au -3.2;
# AuCu3 -3.9 - 0.1 = -4.0, and formed -4.0 - (3 * -4.1 - 3.2) / 4 = -0.125 eV/atom;
# AuCu -3.6 - 0.1 = -3.7, and formed -3.7 - (-4.1 - 3.2) / 2 = -0.05 eV/atom.
PHASES = (
    ("mp-1", COPPER, -4.1, 0.0),
    ("mp-2", BODY_CENTRED_COPPER, -4.0, 0.0),
    ("mp-3", GOLD, -3.2, 0.0),
    ("mp-4", AU_CU3, -3.9, -0.1),
    ("mp-5", AU_CU, -3.6, -0.1),
)


def document(name: str, structure: Structure, energy: float, correction: float) -> dict[str, Any]:
    """Return a phase as the server hands it out."""
    n_atoms = len(structure)
    adjustments = (
        [ConstantEnergyAdjustment(correction * n_atoms, uncertainty=0.0)] if correction else []
    )
    entry = ComputedStructureEntry(
        structure,
        energy * n_atoms,
        energy_adjustments=adjustments,
        parameters={"run_type": "GGA"},
        data={"material_id": name},
        entry_id=f"{name}-GGA",
    )
    return {"thermo_type": "GGA_GGA+U", "entries": {"GGA": entry.as_dict()}}


class MaterialsServer(ThreadingHTTPServer):
    """Answers with the documents of `PHASES`, or as a test wants it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.documents = [document(*phase) for phase in PHASES]
        self.failures: list[tuple[int, bytes]] = []
        """Status and body of the answers to the next requests for phases."""
        self.always: tuple[int, bytes] | None = None
        """Status and body of all answers to requests for phases."""
        self.queries: list[dict[str, list[str]]] = []
        """What was asked of it."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: MaterialsServer

    def do_GET(self) -> None:
        """Answer a request."""
        target = urlsplit(self.path)
        if target.path == "/heartbeat":
            beat = {
                "status": "OK",
                "version": "0.87.3",
                "db_version": DB_VERSION,
                "access_controlled_batch_ids": [],
            }
            self._answer(200, json.dumps(beat).encode())
            return
        query = parse_qs(target.query)
        self.server.queries.append(query)
        if self.headers["x-api-key"] != KEY:
            self._answer(401, json.dumps({"detail": f"no {self.headers['x-api-key']}"}).encode())
        elif self.server.failures:
            self._answer(*self.server.failures.pop(0))
        elif self.server.always:
            self._answer(*self.server.always)
        else:
            self._answer(200, self._page(query))

    def _page(self, query: dict[str, list[str]]) -> bytes:
        wanted = set(query["chemsys"][0].split(","))
        matching = [
            document
            for document in self.server.documents
            if "-".join(sorted(document["entries"]["GGA"]["composition"])) in wanted
            and document["thermo_type"] in query["thermo_types"][0].split(",")
        ]
        first = int(query.get("_skip", ["0"])[0])
        page = matching[first : first + int(query["_limit"][0])]
        return json.dumps({"data": page, "meta": {"total_doc": len(matching)}}).encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@contextmanager
def materials_server() -> Iterator[MaterialsServer]:
    """Run a server for a while."""
    with MaterialsServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
