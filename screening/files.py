"""Files of a results directory, written so that no crash tears one; `object_store` has the others."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from screening.errors import RunError, UserError
from screening.object_store import is_remote, open_remote_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Value = TypeVar("_Value")

_TEMPORARY = ".tmp-"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def hold(path: Path) -> None:
    """Hold a file for this process alone, for as long as it lives, however it ends.

    Raises:
        UserError: if another process holds it, or it cannot be written.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return  # this file system has no locks
        raise UserError(
            f"{path.parent} is being worked on by another process; wait for it, or choose "
            f"another --out"
        ) from None


class Files(Protocol):
    """What the store needs of a place; names are relative and use ``/``."""

    def read(self, name: str) -> bytes:
        """Return the content of a file."""

    def read_parts(self, name: str, use: Callable[[pa.NativeFile], _Value]) -> _Value:
        """Return what a function makes of a file in which it reads here and there."""

    def write(self, name: str, content: Any) -> None:
        """Replace a file at once: a reader finds the old content or the new, never a part."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def names(self, directory: str) -> list[str]:
        """Return the names of the files and directories in a directory, sorted; none if absent."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def sweep(self) -> int:
        """Remove what interrupted writes left behind, and return how many."""

    def check_writable(self) -> None:
        """Raise ``OSError`` unless files can be written."""


class LocalFiles:
    """Files in a directory of this machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return (self.directory / name).read_bytes()

    def read_parts(self, name: str, use: Callable[[pa.NativeFile], _Value]) -> _Value:
        """Return what a function makes of a file in which it reads here and there."""
        path = self.directory / name
        # Python's errors say what is wrong in two words; only Arrow's file is read, since Arrow's
        # threads must not hold one of Python's (see `parquet_table`).
        with path.open("rb"), pa.OSFile(str(path)) as file:
            return use(file)

    def write(self, name: str, content: Any) -> None:
        """Write beside the target, flush to the disk, rename, and flush the rename."""
        target = self.directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.directory / name).is_file()

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory, without temporaries."""
        try:
            found = [path.name for path in (self.directory / directory).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if not name.startswith(_TEMPORARY))

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        (self.directory / name).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove temporaries."""
        found = list(self.directory.rglob(f"{_TEMPORARY}*"))
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def check_writable(self) -> None:
        """Write and remove a file that is large enough to meet a full disk."""
        name = f"{_TEMPORARY}check"
        self.write(name, bytes(65536))
        self.remove(name)


def open_files(uri: str) -> Files:
    """Return the files of a local directory or of an ``s3://`` or ``gs://`` URI.

    Raises:
        UserError: if the URI is of another kind or its service cannot be reached.
    """
    if is_remote(uri):
        return open_remote_files(uri)
    scheme = _URI.fullmatch(uri)
    if scheme or not uri or "\0" in uri:
        raise UserError(f"output is {uri!r}; it must be a path or start with s3:// or gs://")
    directory = Path(uri).expanduser()
    if directory.exists() and not directory.is_dir():
        raise UserError(f"output {uri} is a file; it must be a directory")
    return LocalFiles(directory)


def parquet_table(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return what the content of a Parquet file holds.

    Without Arrow's threads, which `pyarrow.parquet.read_table` uses: they free Python's objects
    when they like, and if that is while Python ends, the process is aborted. `screening status`
    ended with status 134 once in twenty times (https://github.com/apache/arrow/issues/34314).

    Args:
        content: of the file.
        columns: to be read, in their order; all by default.

    Raises:
        pyarrow.ArrowException: if it is damaged or has no such columns.
    """
    file = pq.ParquetFile(pa.BufferReader(content))
    if absent := sorted(set(columns or ()) - set(file.schema_arrow.names)):
        raise pa.ArrowInvalid(f"no column {absent[0]}")
    table = file.read(columns=columns, use_threads=False)
    return table.select(columns) if columns else table


def json_bytes(value: Any) -> bytes:
    """Return a value as a JSON file holds it."""
    return json.dumps(value, indent=1, sort_keys=True).encode()


def reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:300]


def write_file(files: Files, uri: str, name: str, content: Any) -> None:
    """Replace a file of the results.

    Args:
        files: where.
        uri: what to call that place in a message.
        name: of the file.
        content: bytes or a buffer.

    Raises:
        RunError: if it cannot be written.
    """
    try:
        files.write(name, content)
    except OSError as error:
        raise RunError(f"{uri}/{name} cannot be written: {reason(error)}") from None
