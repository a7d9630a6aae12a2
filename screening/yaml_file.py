"""Reading a YAML file of settings as people mean it.

PyYAML follows YAML 1.1, in which ``No`` (nobelium) is false, ``062`` (a space group) is octal 50
and ``1e-3`` is a string. The loader here has the core types of YAML 1.2 and nothing else: no tags,
no references, and no key that is given twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from screening.errors import UserError, shown

LARGEST_FILE = 1_000_000
"""Bytes. A campaign file is a page; anything larger is another file."""

_MOST_DIGITS = 100


class _SettingsLoader(yaml.SafeLoader):
    """YAML 1.2 core types only."""

    # Filled below; PyYAML shares the table with its parent class unless it is replaced.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse references and tags, which have no use here and can make a file explode."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("references (*name) are not used in this file")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not used in this file, found {shown(event.tag)}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice: one of its values would be lost."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        seen = set()
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"every key is a word, got {shown(key)}")
            if key in seen:
                raise yaml.YAMLError(f"the key {shown(key)} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """Read an integer in base ten, leading zeros or not."""
        digits = str(self.construct_scalar(node))
        if len(digits) > _MOST_DIGITS:
            raise yaml.YAMLError(f"a number has {len(digits)} digits")
        return int(digits)


class _SettingsDumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        """Write a value again rather than a reference to it."""
        return True


def _resolve(tag: str, pattern: str, first_characters: str) -> None:
    expression = re.compile(rf"^(?:{pattern})$")
    for class_ in (_SettingsLoader, _SettingsDumper):
        class_.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", expression, list(first_characters))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN")
_resolve("int", r"[-+]?[0-9]+", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
_SettingsLoader.yaml_implicit_resolvers[""] = [
    ("tag:yaml.org,2002:null", re.compile(r"^$"))  # an empty value
]
_SettingsLoader.add_constructor("tag:yaml.org,2002:int", _SettingsLoader.construct_decimal)


def parse_settings(text: str, source: str) -> dict[str, Any]:
    """Parse the text of a YAML file of settings into a mapping.

    Args:
        text: the whole document.
        source: what to call it in a message, for example the path.

    Raises:
        UserError: if it is not one YAML mapping of plain values.
    """
    try:
        settings = yaml.load(text, Loader=_SettingsLoader)  # noqa: S506 - a SafeLoader underneath
    except RecursionError:
        raise UserError(f"{source} is not a settings file: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{source} is not a YAML file that can be read: {_reason(error)}") from None
    if not isinstance(settings, dict):
        raise UserError(
            f"{source} must hold keys and values such as `name: cu-k-si`, got {shown(settings)}"
        )
    return settings


def write_settings(settings: dict[str, Any]) -> str:
    """Return settings as YAML text that ``parse_settings`` reads back unchanged."""
    return yaml.dump(
        settings, Dumper=_SettingsDumper, sort_keys=False, allow_unicode=True, width=100
    )


def read_settings(path: Path | str) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        UserError: if the file is missing, unreadable, too large or not such a file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UserError(f"there is no file {shown(str(path), 200)}") from None
    except IsADirectoryError:
        raise UserError(f"{shown(str(path), 200)} is a directory, not a YAML file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shown(str(path), 200)} cannot be read: {reason}") from None
    if len(content) > LARGEST_FILE:
        raise UserError(f"{path} is not a settings file: it has more than {LARGEST_FILE:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a YAML file that can be read: it is not text") from None
    return parse_settings(text, str(path))


def _reason(error: Exception) -> str:
    """Return what a YAML parser complains about, with the line, as one phrase."""
    problem = getattr(error, "problem", None) or next(iter(str(error).splitlines()), "no reason")
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)
