"""The note that says how a core was made, as it is written and as it is read."""

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch.xsave import Component, XsaveAccount, XsaveLayout
from gcorefs.elfcore.provenance import Account, How, Origin, Provenance
from tests.pure.structures import unpack

TIME = "2026-01-02T03:04:05.678+00:00"


def made(threads: dict[int, How], host: str = "db7") -> Provenance:
    return Provenance(
        Origin(
            version="1.2.3",
            host=host,
            pid=4711,
            stopped_at=TIME,
            stop_milliseconds=1.25,
        ),
        policy={"unresponsive": "partial", "stop_timeout": 1.0},
        stopped=sum(how is How.STOPPED for how in threads.values()),
        others={tid: how for tid, how in threads.items() if how is not How.STOPPED},
    )


def read(provenance: Provenance) -> dict[str, object]:
    ((owner, kind, desc),) = unpack(provenance.pack())
    assert (owner, kind) == (b"GCOREFS", 0x47434F52)
    assert desc.isascii()
    assert b"\n" not in desc
    facts: dict[str, object] = json.loads(desc)
    return facts


def test_the_note_says_who_got_no_cpu() -> None:
    facts = read(replace(made({10: How.STOPPED, 11: How.PARTIAL, 12: How.ZERO}), no_cpu=[12]))
    assert facts["no_cpu"] == [12]
    assert "no_cpu" not in read(made({10: How.STOPPED, 11: How.PARTIAL}))


def test_the_note_says_who_when_and_how() -> None:
    assert read(made({10: How.STOPPED, 11: How.PARTIAL, 12: How.STOPPED})) == {
        "version": "1.2.3",
        "host": "db7",
        "pid": 4711,
        "stopped_at": TIME,
        "stop_milliseconds": 1.25,
        "policy": {"unresponsive": "partial", "stop_timeout": 1.0},
        "threads": {"stopped": 2, "partial": 1, "zero": 0, "omitted": 0},
        "tids": {"partial": [11]},
        "bytes": {
            "mapped": 0,
            "recorded": 0,
            "zeros": 0,
            "left_out": 0,
            "beyond_kernel": 0,
            "unreadable": 0,
            "guards": 0,
        },
        "zeros": {"area": 0, "shared": 0},
        "left_out": {},
        "unreadable": [],
        "names": {},
    }


ACCOUNT = Account(
    recorded=40960,
    zeros=8192,
    shared=4096,
    area=4096,
    left_out={"filter": 4096, "dontdump": 0},
    unreadable=12288,
    guards=8192,
    ranges=[(0x1000, 0x2000), (0x7F0000001000, 0x7F0000003000)],
    names={0x5000: "[heap]", 0x7FFF00000000: "[stack]"},
)


def test_the_note_accounts_for_every_byte() -> None:
    facts = read(replace(made({10: How.STOPPED}), account=ACCOUNT))
    assert facts["bytes"] == {
        "mapped": 53248,
        "recorded": 40960,
        "zeros": 8192,
        "left_out": 4096,
        "beyond_kernel": 0,
        "unreadable": 12288,
        "guards": 8192,
    }
    assert facts["zeros"] == {"area": 4096, "shared": 4096}
    assert facts["left_out"] == {"filter": 4096, "dontdump": 0}
    assert facts["unreadable"] == ["1000-2000", "7f0000001000-7f0000003000"]
    assert facts["names"] == {"5000": "[heap]", "7fff00000000": "[stack]"}


def test_the_attributes_account_for_every_byte_and_name_no_memory() -> None:
    attributes = replace(made({10: How.STOPPED}), account=ACCOUNT).attributes()
    assert attributes["bytes.mapped"] == "53248"
    assert attributes["left_out.filter"] == "4096"
    assert attributes["unreadable"] == "1000-2000 7f0000001000-7f0000003000"
    assert not any(name.startswith("names") for name in attributes)


def test_of_very_many_unreadable_ranges_all_are_counted_and_the_first_listed() -> None:
    ranges = [(start, start + 4096) for start in range(0, 16 << 20, 8192)]
    account = Account(unreadable=len(ranges) * 4096, ranges=ranges)
    facts = account.facts()
    assert facts["bytes"]["unreadable"] == 8 << 20
    assert facts["unreadable"] == [f"{start:x}-{end:x}" for start, end in ranges[:1000]]


def test_the_attributes_say_the_same_one_fact_each() -> None:
    assert made({10: How.STOPPED, 11: How.OMITTED, 12: How.OMITTED}).attributes() == {
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
        "bytes.mapped": "0",
        "bytes.recorded": "0",
        "bytes.zeros": "0",
        "bytes.left_out": "0",
        "bytes.beyond_kernel": "0",
        "bytes.unreadable": "0",
        "bytes.guards": "0",
        "zeros.area": "0",
        "zeros.shared": "0",
        "unreadable": "",
    }


XSTATE = XsaveAccount(
    kernel=XsaveLayout(2440, 0x207, (Component(2, 256, 576), Component(9, 8, 2432))),
    written=XsaveLayout(2696, 0x207, (Component(2, 256, 576), Component(9, 8, 2688))),
    kept=2,
)


def test_the_note_says_where_the_kernel_has_the_vector_registers() -> None:
    made_there = replace(made({10: How.STOPPED}), xstate=XSTATE)
    expected = {
        "layout": "standard",
        "size": 2696,
        "kernel_size": 2440,
        "kernel_features": "0x207",
        "kernel_components": [[2, 256, 576], [9, 8, 2432]],
        "kept": 2,
    }
    assert read(made_there)["xstate"] == expected
    attributes = made_there.attributes()
    assert {name: attributes[f"xstate.{name}"] for name in expected} == {
        "layout": "standard",
        "size": "2696",
        "kernel_size": "2440",
        "kernel_features": "0x207",
        "kernel_components": "[2, 256, 576] [9, 8, 2432]",
        "kept": "2",
    }


@given(st.dictionaries(st.integers(1, 1 << 22), st.sampled_from(How)), st.text())
def test_no_thread_is_lost(threads: dict[int, How], host: str) -> None:
    facts = read(made(threads, host))
    assert facts["host"] == host
    counts, tids = facts["threads"], facts["tids"]
    assert isinstance(counts, dict)
    assert isinstance(tids, dict)
    assert sum(counts.values()) == len(threads)
    assert {tid: how for how, found in tids.items() for tid in found} == {
        tid: how for tid, how in threads.items() if how is not How.STOPPED
    }
