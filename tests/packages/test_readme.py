"""The commands on the first page, as they are written there, one after the other."""

import json
import re
import shlex
from pathlib import Path

from gcorefs import __version__
from tests.packages.clean_machine import boot
from tests.packages.conftest import TREE

PROMPT = "# "

# What the reader has: a sick program, and the tools that the page names.
GIVEN = """
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get -qq update
apt-get -qq install -y --no-install-recommends redis-server redis-tools gdb zstd >/dev/null
cp /run/given/*.deb ~
# Where it has just been installed, its service may run.
pidof redis-server >/dev/null ||
    redis-server --port 0 --unixsocket /tmp/redis.sock --save "" --daemonize yes >/dev/null
timeout 60 sh -c 'until grep -q poll /proc/$(pidof redis-server)/wchan; do :; done 2>/dev/null'
"""


def commands() -> list[str]:
    block = re.search(r"^```\n(.*?)^```$", (TREE / "README.md").read_text(), re.M | re.S)
    assert block is not None
    lines = block[1].splitlines()
    assert [line for line in lines if not line.startswith(PROMPT)] == []
    return [line.removeprefix(PROMPT) for line in lines]


def test_the_first_page_works_from_the_installation_to_the_purge(
    packages: dict[str, Path], lower: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir(mode=0o755)
    (given / packages["deb"].name).write_bytes(packages["deb"].read_bytes())
    with boot(lower, given, tmp_path) as machine:
        machine.says(GIVEN)
        pid = machine.says("pidof redis-server").strip()
        script = "\n".join(f"echo; echo '>>>' {number}\n{line}"
                           for number, line in enumerate(commands()))  # fmt: skip
        text = machine.says(f"cd; bash -euo pipefail -c {shlex.quote(script)} 2>&1")
        _, *said = re.split(r"^>>> \d+\n", text, flags=re.M)
        by_command = dict(zip(commands(), said, strict=True))

        def of(word: str) -> str:
            (found,) = [output for command, output in by_command.items() if word in command]
            return found

        assert re.search(rf"^ *{pid} +redis-server ", of("gcorefs ls"), re.M)
        # Not every release of Debian has a redis with names of functions in it.
        assert re.search(r"^\d+ threads of 1 process: redis-server$", of("gcorefs stacks"), re.M)
        assert re.search(r"^ *#1  ", of("gcorefs stacks"), re.M)
        assert re.search(r"^#1 +0x[0-9a-f]+ in ", of("gdb -batch"), re.M)
        told = "".join(output for command, output in by_command.items() if "apt" not in command)
        assert not re.search(r"warning|error|traceback", told, re.I), told

        # The process goes on, and what was taken of it is whole.
        assert machine.says("pidof redis-server").strip() == pid
        machine.says(f"grep -q '^TracerPid:.0$' /proc/{pid}/status")
        machine.says(
            "cd; zstd -qdc core.zst >whole; zstd -qdc redis.tar.zst | tar -t | grep -q /core$"
        )
        machine.says("apt-get -qq install -y ~/gcorefs_*.deb")
        for name in ("core", "whole"):
            facts = json.loads(machine.says(f"cd; gcorefs info --json {name}"))
            assert (facts["pid"], facts["missing"]) == (int(pid), 0)
        assert machine.says("gcorefs --version").strip().endswith(__version__)
        machine.says(f"kill {pid}")
