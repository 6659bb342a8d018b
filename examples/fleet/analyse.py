#!/usr/bin/env python3
"""The stacks in many cores, with equal ones counted: one task of Dask for each core.

    analyse.py [--scheduler tcp://HOST:8786] s3://BUCKET/FOLDER/ | file:///FOLDER/

Cores may be compressed (gcorefs dump --compress zstd).  Credentials are in the environment, as for
gcorefs dump --to.
"""

import argparse
import re
import subprocess
import tempfile
from collections import Counter, defaultdict

import obstore
import obstore.store
import zstandard
from distributed import Client, LocalCluster

FRAME = re.compile(r"^#\d+ +0x[0-9a-f]+(?: (?!- )(.+?))?(?: - (.+))?$")


def store(folder):
    return obstore.store.from_url(folder)


def stacks(folder, name):
    """How many threads of one core have which stack.  It runs wherever Dask has a worker."""
    with tempfile.NamedTemporaryFile() as core:
        pieces = iter(obstore.get(store(folder), name).stream(min_chunk_size=1 << 20))
        if name.endswith(".zst"):
            # Its frames are independent: gcorefs cat reads a part of it, this reads all.
            with zstandard.ZstdDecompressor().stream_writer(core, closefd=False) as to:
                for piece in pieces:
                    to.write(bytes(piece))
        else:
            for piece in pieces:
                core.write(bytes(piece))
        core.flush()
        command = ["eu-stack", f"--core={core.name}", "--module", "-n", "256"]
        # Its status is 1 if one stack ends too early.
        output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return Counter(threads(output))


def threads(output):
    """The stack of each thread, as names from the innermost frame on."""
    frames = None
    for line in output.splitlines():
        if line.startswith("TID "):
            if frames is not None:
                yield tuple(frames)
            frames = []
        elif frames is not None and (match := FRAME.match(line)):
            module = (match[2] or "?").rpartition("/")[2]
            frames.append((match[1] or f"? in {module}").partition("@")[0])
    if frames is not None:
        yield tuple(frames)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--scheduler", help="of a cluster; without it, the tasks run here")
    options = parser.parse_args()
    names = [each["path"] for each in obstore.list(store(options.folder)).collect()]
    cluster = options.scheduler or LocalCluster(threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        found = client.gather(client.map(stacks, [options.folder] * len(names), names))
    count, cores = Counter(), defaultdict(int)
    for each in found:
        count.update(each)
        for stack in each:
            cores[stack] += 1
    print(f"{len(names)} cores, {count.total()} threads")
    for stack, number in sorted(count.items(), key=lambda item: (-item[1], item[0])):
        print(f"\n{number} threads in {cores[stack]} cores:")
        for depth, name in enumerate(stack):
            print(f"  #{depth} {name}")


if __name__ == "__main__":
    main()
