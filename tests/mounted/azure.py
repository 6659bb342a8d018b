"""The part of Azure's Blob Storage that an upload needs, with its signatures (Shared Key).

Blocks are sent one by one, and a list of them makes a blob ("Put Block", "Put Block List").  What
Azure itself may refuse beyond that is not tested.
"""

import base64
import contextlib
import hashlib
import hmac
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

ACCOUNT, CONTAINER = "account", "cores"
KEY = base64.b64encode(b"the key of the test").decode()

# "Authorize with Shared Key" has them in this order.
_SIGNED = (
    "Content-Encoding", "Content-Language", "Content-Length", "Content-MD5", "Content-Type", "Date",
    "If-Modified-Since", "If-Match", "If-None-Match", "If-Unmodified-Since", "Range",
)  # fmt: skip


class AzureServer(ThreadingHTTPServer):
    """One account."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.blocks: dict[tuple[str, str], bytes] = {}
        """That no list has named yet, by blob and id."""
        self.parts_sent = 0
        self.url = f"az://{CONTAINER}"
        self.environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{self.server_port}",
            "AZURE_ALLOW_HTTP": "true",
        }


def signature(verb: str, target: str, headers: Mapping[str, str]) -> str:
    """What the Authorization of a request has to be."""
    ours = {name.lower(): value for name, value in headers.items()}
    lines = [verb, *(ours.get(name.lower(), "") for name in _SIGNED)]
    if lines[3] == "0":
        lines[3] = ""
    lines += [f"{name}:{ours[name]}" for name in sorted(ours) if name.startswith("x-ms-")]
    url = urlsplit(target)
    lines.append(f"/{ACCOUNT}{url.path}")
    lines += [f"{name}:{value}" for name, value in sorted(parse_qsl(url.query))]
    made = hmac.digest(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256)
    return f"SharedKey {ACCOUNT}:{base64.b64encode(made).decode()}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AzureServer

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != signature("PUT", self.path, dict(self.headers)):
            self._answer(403)
            return
        url = urlsplit(self.path)
        name, query = unquote(url.path.removeprefix(f"/{CONTAINER}/")), dict(parse_qsl(url.query))
        blobs, blocks = self.server.blobs, self.server.blocks
        if query.get("comp") == "block":
            blocks[name, query["blockid"]] = body
            self.server.parts_sent += 1
        elif query.get("comp") == "blocklist":
            ids = re.findall(r"<(?:Uncommitted|Latest)>(.+?)</", body.decode())
            blobs[name] = b"".join(blocks.pop((name, each)) for each in ids)
        else:
            blobs[name] = body
        self._answer(201)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def azure_storage() -> Iterator[AzureServer]:
    with AzureServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
