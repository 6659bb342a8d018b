"""The note that says how a core was had, as it is written and as it is read."""

import json

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.elfcore.provenance import How, Provenance
from tests.pure.structures import unpack

HOWS: list[How] = ["stopped", "partial", "zero", "omitted"]
TIME = "2026-01-02T03:04:05.678+00:00"


def made(threads: dict[int, How], host: str = "db7") -> Provenance:
    return Provenance(
        version="1.2.3",
        host=host,
        pid=4711,
        stopped_at=TIME,
        stop_milliseconds=1.25,
        policy={"unresponsive": "partial", "stop_timeout": 1.0},
        threads=threads,
    )


def read(provenance: Provenance) -> dict[str, object]:
    ((owner, kind, desc),) = unpack(provenance.pack())
    assert (owner, kind) == (b"GCOREFS", 0x47434F52)
    assert desc.isascii()
    assert b"\n" not in desc
    facts: dict[str, object] = json.loads(desc)
    return facts


def test_the_note_says_who_when_and_how() -> None:
    assert read(made({10: "stopped", 11: "partial", 12: "stopped"})) == {
        "version": "1.2.3",
        "host": "db7",
        "pid": 4711,
        "stopped_at": TIME,
        "stop_milliseconds": 1.25,
        "policy": {"unresponsive": "partial", "stop_timeout": 1.0},
        "threads": {"stopped": 2, "partial": 1, "zero": 0, "omitted": 0},
        "tids": {"partial": [11]},
    }


def test_the_attributes_say_the_same_one_fact_each() -> None:
    assert made({10: "stopped", 11: "omitted", 12: "omitted"}).attributes() == {
        "version": "1.2.3",
        "host": "db7",
        "pid": "4711",
        "stopped_at": TIME,
        "stop_milliseconds": "1.25",
        "policy.unresponsive": "partial",
        "policy.stop_timeout": "1.0",
        "threads.stopped": "1",
        "threads.partial": "0",
        "threads.zero": "0",
        "threads.omitted": "2",
        "tids.omitted": "11 12",
    }


@given(st.dictionaries(st.integers(1, 1 << 22), st.sampled_from(HOWS)), st.text())
def test_no_thread_is_lost(threads: dict[int, How], host: str) -> None:
    facts = read(made(threads, host))
    assert facts["host"] == host
    counts, tids = facts["threads"], facts["tids"]
    assert isinstance(counts, dict)
    assert isinstance(tids, dict)
    assert sum(counts.values()) == len(threads)
    assert {tid: how for how, found in tids.items() for tid in found} == {
        tid: how for tid, how in threads.items() if how != "stopped"
    }
