"""The XML API of Google Cloud Storage, in front of an S3 server.

Its requests for objects and for multipart uploads are those of S3, except for the authorization
(Google's "Simple migration from Amazon S3").  The front takes that off, and the server behind it
lets everybody in.  What Google itself would check is not tested.
"""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_NOT_PASSED_ON = {"authorization", "host", "connection"}
_NOT_PASSED_BACK = {"connection", "content-length", "date", "server", "transfer-encoding"}


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    port = 0
    """Of the server behind it."""

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _NOT_PASSED_ON
        }
        behind = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(behind):
            behind.request(self.command, self.path, body, headers)
            answer = behind.getresponse()
            data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _NOT_PASSED_BACK:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the client has gone
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def google_storage(port: int, folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which gs:// is the server at `port`."""
    handler = type("_FrontOf", (_Front,), {"port": port})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as front:
        url = f"http://127.0.0.1:{front.server_port}"
        account = {"gcs_base_url": url, "disable_oauth": True}
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        (folder / "account.json").write_text(json.dumps(account))
        thread = threading.Thread(target=front.serve_forever)
        thread.start()
        try:
            yield {"GOOGLE_SERVICE_ACCOUNT": str(folder / "account.json")}
        finally:
            front.shutdown()
            thread.join()
