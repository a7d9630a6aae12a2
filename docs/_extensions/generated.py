"""What the documentation takes from the code itself, so that it cannot say otherwise.

The directives ``campaign-keys``, ``columns`` and ``commands`` become tables of the campaign file's
keys, of the results' columns and of the command line, and ``model-card`` what a checkpoint says
of itself. Before a build, figures are drawn and the
notebooks are copied beside the pages.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import concept_figures
import model_cards
import nbformat
import typer
from pydantic_core import PydanticUndefined
from sphinx.util.docutils import SphinxDirective

from screening.campaign import Campaign
from screening.cli import app as commands
from screening.references import REFERENCE_SCHEMA
from screening.schema import CANDIDATE_SCHEMA, SAMPLE_SCHEMA
from screening.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from docutils import nodes
    from pydantic.fields import FieldInfo
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
EXECUTED = ROOT / "build" / "notebooks"
"""Where tests/test_notebooks.py leaves the notebooks with their outputs."""


class CampaignKeys(SphinxDirective):
    """The keys of a campaign file: name, default, what is allowed."""

    def run(self) -> list[nodes.Node]:
        """Return a table."""
        lines = ["| key | default | allowed |", "| --- | --- | --- |"]
        lines += [
            f"| `{name}` | {_default(field)} | {_cell(field.description or '')} |"
            for name, field in _keys(Campaign)
        ]
        return self.parse_text_to_nodes("\n".join(lines))


def _keys(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the keys of settings, those of the parts below the part's own."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}", field
        for part in _parts(field.annotation):
            yield from _keys(part, f"{prefix}{name}.")


def _parts(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts(inner)]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, Settings):
        return "see below"
    return "null" if field.default is None else f"`{str(field.default).lower()}`"


class Columns(SphinxDirective):
    """The columns of one of the tables: name, type, unit, meaning."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a table."""
        own = [field for field in CANDIDATE_SCHEMA if field.name not in SAMPLE_SCHEMA.names]
        fields = {"samples": SAMPLE_SCHEMA, "candidates": own, "references": REFERENCE_SCHEMA}
        lines = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        lines += [_column(field) for field in fields[self.arguments[0]]]
        return self.parse_text_to_nodes("\n".join(lines))


def _column(field: pa.Field) -> str:
    about = {key.decode(): text.decode() for key, text in field.metadata.items()}
    kind = str(field.type).replace("element: ", "")
    return f"| `{field.name}` | {_cell(kind)} | {about.get('unit', '')} | {_cell(about['description'])} |"


class Commands(SphinxDirective):
    """The help of every command, as the program prints it."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each command."""
        root: Any = typer.main.get_command(commands)
        texts = [
            f"## `{name}`\n\n```text\n{text}\n```" for name, text in _helps(root, "screening", None)
        ]
        return self.parse_text_to_nodes("\n\n".join(texts), allow_section_headings=True)


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(command, info_name=name.rsplit(maxsplit=1)[-1], parent=parent)
    if not hasattr(command, "commands"):
        yield name, command.get_help(context)
        return
    for key, child in command.commands.items():
        yield from _helps(child, f"{name} {key}", context)


def _cell(text: str) -> str:
    """Return a text that does not end a cell of a table, nor open a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _prepare(app: Sphinx) -> None:
    """Draw the figures and copy the notebooks, with outputs where they are up to date."""
    figures = Path(app.srcdir) / "figures"
    figures.mkdir(exist_ok=True)
    concept_figures.draw(figures)
    notebooks = Path(app.srcdir) / "notebooks"
    notebooks.mkdir(exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        executed = EXECUTED / source.name
        is_current = executed.is_file() and _code(executed) == _code(source)
        shutil.copyfile(executed if is_current else source, notebooks / source.name)


def _code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and what comes before a build."""
    app.add_directive("campaign-keys", CampaignKeys)
    app.add_directive("columns", Columns)
    app.add_directive("commands", Commands)
    app.add_directive("model-card", model_cards.ModelCard)
    app.connect("builder-inited", _prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
