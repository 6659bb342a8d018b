"""An S3 server, started by the test: SeaweedFS, whose program is in a package of PyPI."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
from obstore.store import ObjectStore, S3Store

from tests.mounted.conftest import eventually

WEED = Path(sys.executable).with_name("weed")
BUCKET = "cores"
_KEY, _SECRET = "test", "secret of the test"
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
_SOCKETS = ("filer", "s3", "master", "volume")


class ObjectServer:
    """A server with one bucket."""

    def __init__(self, ports: dict[str, int]) -> None:
        self._ports = ports
        self.port = ports["s3.port"]
        self.url = f"s3://{BUCKET}"
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
        }
        self.store: ObjectStore = S3Store(
            BUCKET,
            endpoint=self.environment["AWS_ENDPOINT_URL"],
            region=self.environment["AWS_REGION"],
            access_key_id=_KEY,
            secret_access_key=_SECRET,
            client_options={"allow_http": True},
        )

    def names(self) -> list[str]:
        found = obstore.list(self.store).collect()
        return sorted(each["path"] for each in found)

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self.store, name).bytes())

    def uploads(self) -> list[str]:
        """Multipart uploads that were begun and neither completed nor aborted."""
        url = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/{BUCKET}/.uploads/"
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        try:
            with urllib.request.urlopen(request) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            assert error.code == 404
            return []
        return [each["FullPath"] for each in found.get("Entries") or []]

    def is_ready(self) -> bool:
        try:
            obstore.put(self.store, "ready", b"", use_multipart=False)
            obstore.delete(self.store, "ready")
        except (obstore.exceptions.BaseError, OSError):
            return False
        return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            each = stack.enter_context(socket.socket())
            each.bind(("127.0.0.1", 0))
            found.append(each.getsockname()[1])
    return found


@contextlib.contextmanager
def object_server(folder: Path) -> Iterator[ObjectServer]:
    names = [*_PORTS, *(f"{each}.grpc" for each in _PORTS)]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    credentials = [{"accessKey": _KEY, "secretKey": _SECRET}]
    actions = ["Admin", "Read", "Write", "List"]
    identity = {"name": "test", "credentials": credentials, "actions": actions}
    everybody = {"name": "anonymous", "actions": actions}  # google.py
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, everybody]}))
    options = {
        "dir": folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64, "volume.max": 8, "s3": "true", "s3.iam": "false",
        "s3.config": folder / "s3.json", "s3.autoCreateBucket": "true", "s3.port.iceberg": 0,
        "s3.port.lance": 0, **ports,
    }  # fmt: skip
    words = [
        str(WEED),
        "-logtostderr=true",
        "server",
        *(f"-{name}={options[name]}" for name in options),
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(words, stderr=log) as server:
        try:
            found = ObjectServer(ports)
            eventually(found.is_ready)
            yield found
        finally:
            server.kill()
    for port in ports.values():
        for name in _SOCKETS:  # it has no option for all of these names
            for kind in ("", "-grpc"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"/tmp/seaweedfs-{name}{kind}-{port}.sock")
