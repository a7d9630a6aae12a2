"""A server of the S3 protocol on this machine, in memory, that can be made to fail.

Arrow's client, which is Amazon's own, speaks to it over HTTP as to the real service: objects,
ranges, listings, uploads in parts. Faults are what a service does: it refuses, or is not there.
"""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI-this-must-never-be-seen"


class S3Server:
    """One bucket, its objects by key, and what to refuse.

    Args:
        bucket: Name of the bucket.
    """

    def __init__(self, bucket: str = "bucket") -> None:
        self.bucket = bucket
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.writes: list[str] = []
        """Keys in the order in which they were put."""
        self.writes_before_failure: int | None = None
        """How many more objects are stored before every request is refused; None: no end."""
        self.counted = ""
        """What their keys hold, for those that count."""
        self.refusals = 0
        """How many of the next requests are refused."""
        self.refused = 0
        """How many requests were."""
        self.put_s = 0.0
        """Seconds that an upload takes, s."""
        self.stopped = False
        self.lock = threading.Lock()
        server = self

        class Handler(_Handler):
            store = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return self.client_environment(self._http.server_port)

    @staticmethod
    def client_environment(port: int) -> dict[str, str]:
        """Return what a client needs to find a service on this machine."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def stop(self) -> None:
        """Close the port: the next request finds nobody."""
        self.stopped = True
        self._http.shutdown()
        self._http.server_close()

    def refuses(self) -> bool:
        """Whether the present request is to be refused."""
        with self.lock:
            if self.refusals:
                self.refusals -= 1
            elif self.writes_before_failure != 0:
                return False
            self.refused += 1
            return True

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""
        time.sleep(self.put_s)
        with self.lock:
            self.objects[key] = content
            self.writes.append(key)
            if self.writes_before_failure and self.counted in key:
                self.writes_before_failure -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: S3Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _handle(self) -> None:
        split = urlsplit(self.path)
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        bucket, _, key = unquote(split.path).lstrip("/").partition("/")
        body = self._body()
        if self.store.stopped:  # a connection that was kept open ends without an answer
            self.close_connection = True
        elif self.store.refuses():
            self._error(500, "InternalError")
        elif SECRET in str(self.headers) or KEY not in self.headers.get("Authorization", ""):
            self._error(403, "AccessDenied")
        elif bucket != self.store.bucket:
            self._error(404, "NoSuchBucket")
        else:
            getattr(self, f"_{self.command.lower()}")(key, query, body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815 - the names are the library's

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return content
        # Amazon's own chunks, each with a signature, inside the transfer's.
        plain, position = b"", 0
        while True:
            end = content.index(b"\r\n", position)
            size = int(content[position:end].split(b";")[0], 16)
            if not size:
                return plain
            plain += content[end + 2 : end + 2 + size]
            position = end + 2 + size + 2

    def _get(self, key: str, query: dict[str, str], _body: bytes) -> None:
        if not key:
            self._list(query)
            return
        content = self.store.objects.get(key)
        if content is None:
            self._error(404, "NoSuchKey")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            part = content[first : last + 1]
            self._answer(206, part, {"Content-Range": f"bytes {first}-{last}/{len(content)}"})
        else:
            self._answer(200, content)

    def _head(self, key: str, _query: dict[str, str], _body: bytes) -> None:
        content = self.store.objects.get(key)
        if key and content is None:
            self._answer(404)
        else:
            self._answer(200, content or b"")

    def _put(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
        elif key:
            self.store.put(key, body)
        self._answer(200, headers={"ETag": '"0"'})

    def _post(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:
            identity = str(len(self.store.uploads))
            self.store.uploads[identity] = {}
            self._xml("InitiateMultipartUploadResult", f"<UploadId>{identity}</UploadId>")
        elif "uploadId" in query:
            parts = self.store.uploads.pop(query["uploadId"])
            self.store.put(key, b"".join(parts[number] for number in sorted(parts)))
            self._xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key>")
        else:  # several objects are deleted at once
            for found in re.findall(rb"<Key>(.*?)</Key>", body):
                self.store.objects.pop(found.decode(), None)
            self._xml("DeleteResult", "")

    def _delete(self, key: str, query: dict[str, str], _body: bytes) -> None:
        self.store.uploads.pop(query.get("uploadId", ""), None)
        self.store.objects.pop(key, None)
        self._answer(204)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after, most = query.get("continuation-token", ""), int(query.get("max-keys", 1000))
        rows: dict[str, str] = {}
        for key in sorted(key for key in self.store.objects if key.startswith(prefix)):
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = prefix + head + cut if cut else key
            tag = "CommonPrefixes><Prefix" if cut else "Contents><Key"
            rows[name] = tag
        names = [name for name in rows if name > after]
        shown, more = names[:most], len(names) > most
        text = ""
        for name in shown:
            outer, inner = rows[name].split("><")
            size = (
                "" if outer == "CommonPrefixes" else f"<Size>{len(self.store.objects[name])}</Size>"
            )
            text += f"<{outer}><{inner}>{escape(name)}</{inner}>{size}</{outer}>"
        token = (
            f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        )
        count = f"<KeyCount>{len(shown)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        self._xml("ListBucketResult", count + token + text)

    def _xml(self, root: str, inside: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><{root}>{inside}</{root}>'
        self._answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._answer(status, text.encode(), {"Content-Type": "application/xml"})

    def _answer(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
