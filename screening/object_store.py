"""Files in an object store: S3 and what speaks its protocol, or Google's.

An object appears whole when its upload ends, so that no temporary name is needed. What differs from
a disk is that the service may not answer. A request is repeated a bounded number of times, with
longer pauses each time, and then the run ends with one sentence; `resume` goes on from there.

Keys and tokens come from where Amazon's and Google's own tools look for them: the environment, their
configuration files, the machine's role. They are never part of a URI here, because a URI stands in
files, messages and the records of a cluster.
"""

from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from pyarrow import fs

from screening.errors import RunError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

_Value = TypeVar("_Value")

PAUSES_S = (1.0, 4.0, 15.0)
"""Seconds between attempts; Arrow's client has tried each several times by then, s."""
_CLIENT_ATTEMPTS = 3
_CONNECT_TIMEOUT_S = 10.0
_REQUEST_TIMEOUT_S = 60.0
_REMOTE = re.compile(r"(s3|gs)://.+")
_NO_USE = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
"""Answers that do not change when the question is repeated."""
_OPTIONS = ("endpoint_override", "region", "scheme")
_WITHOUT_DIRECTORIES = ("s3", "gcs")


class StorageError(RunError, OSError):
    """The service of the results did not do what it was asked, however often."""


class RemoteFiles:
    """Files in an object store.

    Args:
        filesystem: Arrow's access to the store.
        root: Bucket and prefix, as in ``bucket/results``.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")

    def read(self, name: str) -> bytes:
        """Return the content of a file."""

        def read() -> bytes:
            with self.filesystem.open_input_stream(self._path(name)) as stream:
                return bytes(stream.read())

        return _persistently(read)

    def read_parts(self, name: str, use: Callable[[pa.NativeFile], _Value]) -> _Value:
        """Return what a function makes of a file in which it reads here and there."""

        def read() -> _Value:
            with self.filesystem.open_input_file(self._path(name)) as file:
                return use(file)

        return _persistently(read)

    def write(self, name: str, content: Any) -> None:
        """Upload a file."""
        path = self._path(name)

        def write() -> None:
            if self.filesystem.type_name not in _WITHOUT_DIRECTORIES:
                self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(path) as stream:
                stream.write(content)

        # Ctrl-C between opening and writing would close, and so publish, an empty object. It
        # reaches the main thread only; in another one an upload is whole or fails.
        with ThreadPoolExecutor(1) as uploader:
            uploader.submit(_persistently, write).result()

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        info = _persistently(lambda: self.filesystem.get_file_info(self._path(name)))
        return bool(info.type == fs.FileType.File)

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory."""
        selector = fs.FileSelector(self._path(directory), allow_not_found=True)
        found = _persistently(lambda: self.filesystem.get_file_info(selector))
        return sorted(info.base_name for info in found)

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        if self.exists(name):
            _persistently(lambda: self.filesystem.delete_file(self._path(name)))

    def sweep(self) -> int:
        """An upload that was interrupted leaves nothing that can be seen."""
        return 0

    def check_writable(self) -> None:
        """Write and remove a file."""
        self.write("_check", b"")
        self.remove("_check")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


def is_remote(uri: str) -> bool:
    """Whether a place of results is in an object store."""
    return _REMOTE.fullmatch(uri) is not None


def check_remote_uri(uri: str) -> tuple[str, dict[str, str]]:
    """Return a URI as it may be shown, and its options, without asking the service.

    Raises:
        UserError: if it holds a key, or an option that is not known.
    """
    parts = urlsplit(uri)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if "@" in parts.netloc:
        # Its value is not repeated here: it may be a secret.
        raise UserError(
            f"output {place} is given with a key before the @; keys come from the environment, "
            f"for example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    options = dict(parse_qsl(parts.query))
    foreign = sorted(set(options) - set(_OPTIONS))
    if foreign or parts.fragment:
        raise UserError(
            f"output {place} has the option {(foreign or ['#'])[0]!r}; allowed after the question "
            f"mark: {', '.join(_OPTIONS)}"
        )
    return place, options


def open_remote_files(uri: str) -> RemoteFiles:
    """Return the files under an ``s3://`` or ``gs://`` URI.

    Raises:
        UserError: if the URI cannot be used.
    """
    place, options = check_remote_uri(uri)
    parts = urlsplit(uri)
    try:
        if parts.scheme == "s3":
            return RemoteFiles(_s3(parts.netloc, options), f"{parts.netloc}{parts.path}")
        filesystem, root = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise UserError(f"output {place} cannot be opened: {error}") from None
    return RemoteFiles(filesystem, root)


def _s3(bucket: str, options: dict[str, str]) -> fs.S3FileSystem:
    options = {**_from_environment(), **options}
    if "region" not in options and "endpoint_override" not in options:
        options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        **options,
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_CLIENT_ATTEMPTS),
        allow_delayed_open=True,  # one request for a small file, where there were three
    )


def _from_environment() -> dict[str, str]:
    """Return region and endpoint as Amazon's tools would find them."""
    found = {}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if region:
        found["region"] = region
    if endpoint:
        parts = urlsplit(endpoint)
        found.update(scheme=parts.scheme, endpoint_override=parts.netloc)
    return found


def _persistently(request: Callable[[], _Value]) -> _Value:
    """Make a request again after a pause, unless that is of no use."""
    for pause_s in PAUSES_S:
        try:
            return request()
        except FileNotFoundError:
            raise
        except OSError as error:
            if any(answer in str(error) for answer in _NO_USE):
                break
            time.sleep(pause_s)
    try:
        return request()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"the results' service failed: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    return str(error).splitlines()[0][:300]
