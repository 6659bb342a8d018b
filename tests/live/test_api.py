"""The Python interface: what `import gcorefs` gives."""

import errno
import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import gcorefs
from gcorefs import api, tuning
from tests.conftest import Target
from tests.live.accounts import assert_free

Spawn = Callable[..., Target]


def test_the_manual_s_example_runs(
    spawn: Spawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = spawn("threads", 2)
    text = (Path(__file__).parents[2] / "docs/python.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {"pid": target.pid, "path": str(tmp_path / "core")})
    size = (tmp_path / "core").stat().st_size
    assert capsys.readouterr().out == f"{size} 3 True\n"
    assert_free(target.pid)


def words_at(data: bytes, address: int) -> bytes:
    """The 16 bytes at an address in a core."""
    elf = ELFFile(io.BytesIO(data))
    for segment in elf.iter_segments("PT_LOAD"):
        if segment["p_vaddr"] <= address < segment["p_vaddr"] + segment["p_filesz"]:
            offset = segment["p_offset"] + address - segment["p_vaddr"]
            return data[offset : offset + 16]
    raise LookupError(address)


def test_everything_that_is_offered_is_there() -> None:
    assert sorted(gcorefs.__all__) == sorted([*api.__all__, "__version__"])
    for name in gcorefs.__all__:
        assert getattr(gcorefs, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'stopp'"):
        _ = gcorefs.stopp  # type: ignore[attr-defined]


def test_a_process_stands_still_in_the_block_and_runs_on_behind_it(spawn: Spawn) -> None:
    target = spawn("threads", 5)
    with gcorefs.stop(target.pid) as stop:
        assert target.state_letters() == {"t"}
        core = stop.core()
        data = core.read(0, core.size)
        assert data[:4] == b"\x7fELF"
        assert len(data) == core.size
        assert core.read(7, 100) == data[7:107]
        assert core.read(core.size - 3, 100) == data[-3:]
    assert_free(target.pid)
    header = core.header
    assert header == data[: len(header)]  # it does not change
    with pytest.raises(gcorefs.ProcessError) as caught:
        core.read(len(header), 1)
    assert (caught.value.errno, caught.value.reason) == (errno.EIO, gcorefs.Reason.LET_GO)
    assert (core.facts["pid"], core.facts["threads"]["stopped"]) == (target.pid, 6)


def test_one_stop_has_cores_of_several_policies(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("memory", tmp_path)
    kernel = gcorefs.Policy(memory="kernel")
    with gcorefs.stop(target.pid) as stop:
        first, second = stop.core(), stop.core(kernel)
        cores = [first.read(0, first.size), second.read(0, second.size)]
        assert target.state_letters() == {"t"}
    assert [core.facts["policy"]["memory"] for core in (first, second)] == ["filter", "kernel"]
    assert first.facts["bytes"]["beyond_kernel"] > 0 == second.facts["bytes"]["beyond_kernel"]
    assert first.size > second.size
    # Each is as it would be alone, and both are of one instant.
    with gcorefs.stop(target.pid, kernel) as stop:
        assert stop.core().size == second.size
    stack = int(target.truth["regions"][0]["start"], 16)
    assert words_at(cores[0], stack) == words_at(cores[1], stack)


def test_a_core_with_a_copy_lets_the_process_run_on(spawn: Spawn) -> None:
    target = spawn("counter")
    with gcorefs.stop(target.pid, gcorefs.Policy(hold="copy")) as stop:
        core = stop.core()
        assert core.not_copied == ""
        before = core.read(0, core.size)
        first = target.ask("report")["iterations"]
        while target.ask("report")["iterations"] <= first:
            pass
        assert core.read(0, core.size) == before
    with pytest.raises(gcorefs.ProcessError):
        core.read(len(core.header), 1)


def test_a_copy_need_not_be_what_the_stop_was_begun_for(spawn: Spawn) -> None:
    target = spawn("threads", 2)
    with gcorefs.stop(target.pid) as stop:
        core = stop.core(gcorefs.Policy(hold="copy"))
        assert core.not_copied == ""
        deadline = time.monotonic() + 200
        while any(tracer for _, tracer in target.states().values()):
            assert time.monotonic() < deadline, "it is held"
        assert core.read(len(core.header), core.size)
    assert core.facts["policy"]["held"] == "copy"


def test_a_copy_beside_a_core_that_is_read_from_the_process_holds_it(spawn: Spawn) -> None:
    target = spawn("threads", 2)
    with gcorefs.stop(target.pid) as stop:
        live, copied = stop.core(), stop.core(gcorefs.Policy(hold="copy"))
        assert target.state_letters() == {"t"}
        offset = len(live.header)
        assert live.size - offset == copied.size - len(copied.header)
        assert live.read(offset, live.size) == copied.read(len(copied.header), copied.size)
    assert_free(target.pid)


def test_a_core_is_written_to_a_sink(spawn: Spawn, tmp_path: Path) -> None:
    target = spawn("threads", 2)
    seen: list[tuple[int, int]] = []
    sink = gcorefs.open_sink(str(tmp_path / "core"), is_chosen=True)
    with gcorefs.stop(target.pid) as stop:
        core = stop.core()
        core.write_to(sink, lambda done, size: seen.append((done, size)))
        data = core.read(0, core.size)
        assert os.listdir(tmp_path) == []  # it gets its name when it is complete
    sink.commit()
    assert (tmp_path / "core").read_bytes() == data
    assert seen[-1] == (core.size, core.size)
    assert seen == sorted(seen)


class FullSink:
    def write(self, data: memoryview) -> None:
        raise gcorefs.SinkError("the disk", OSError(errno.ETIMEDOUT, "it is late"))

    def commit(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError


def test_an_error_of_the_sink_is_the_sink_s(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    with gcorefs.stop(target.pid) as stop:
        with pytest.raises(gcorefs.SinkError) as caught:
            stop.core().write_to(FullSink())
        assert str(caught.value) == "the disk: it is late"
    assert_free(target.pid)


def test_the_process_is_let_go_however_the_block_ends(spawn: Spawn) -> None:
    target = spawn("threads", 3)
    with pytest.raises(ZeroDivisionError), gcorefs.stop(target.pid):
        _ = 1 // 0
    assert_free(target.pid)


@pytest.mark.parametrize(
    ("pid", "number"), [(1 << 22, errno.ESRCH), (2, errno.EINVAL), (0, errno.EDEADLK)]
)
def test_what_cannot_be_stopped_is_refused(pid: int, number: int) -> None:
    """0: this process itself."""
    with pytest.raises(gcorefs.ProcessError) as caught, gcorefs.stop(pid or os.getpid()):
        pass
    assert caught.value.errno == number


def test_vector_registers_have_one_layout_in_all_cores_of_a_stop(spawn: Spawn) -> None:
    target = spawn("threads", 1)
    with gcorefs.stop(target.pid) as stop:
        with pytest.raises(ValueError, match="vector registers"):
            stop.core(gcorefs.Policy(xstate="raw"))
        assert stop.core().read(0, 4) == b"\x7fELF"
    assert_free(target.pid)


@pytest.mark.parametrize("threads", [1, 150])  # with many, a thread makes the notes later
def test_a_child_of_fork_reads_nothing_and_lets_nobody_go(spawn: Spawn, threads: int) -> None:
    """No thread of the parent lives on in the child (fork(2)), so nobody would answer there."""
    target = spawn("threads", threads)
    with gcorefs.stop(target.pid) as stop:
        core = stop.core()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # else it is pytest's
            signal.alarm(int(tuning.now().read_timeout) - 5)  # before any limit of a call is over
            asked = (
                lambda: core.header,
                lambda: core.read(0, 4),
                lambda: core.write_to(io.BytesIO()),  # type: ignore[arg-type]
                stop.core,
                stop.__enter__,
            )
            status = 1
            try:
                for ask in asked:
                    with pytest.raises(gcorefs.ProcessError) as error:
                        ask()
                    assert error.value.reason is gcorefs.Reason.FORKED
                stop.__exit__()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert len(core.header) > 0
        assert core.read(0, 4) == b"\x7fELF"
        assert target.state_letters() == {"t"}
    assert_free(target.pid)


def test_a_policy_is_named_by_the_words_of_the_commands(spawn: Callable[..., Target]) -> None:
    target = spawn("threads", 3)
    with gcorefs.stop(target.pid, gcorefs.Policy.of("@threads,hold=stop")) as stop:
        registers = stop.core()
        everything = stop.core(gcorefs.Policy.of("@all,unresponsive=omit"))
        assert registers.facts["policy"]["memory"] == "none"
        assert everything.facts["policy"]["memory"] == "all"
        assert registers.facts["bytes"]["recorded"] == 0
        assert everything.facts["left_out"]["filter"] == 0
        assert registers.facts["threads"] == everything.facts["threads"]
        assert registers.size < everything.size
    for text in ("@none", "threads", "memory=x"):
        with pytest.raises(gcorefs.OptionError):
            gcorefs.Policy.of(text)


def test_what_no_process_and_no_core_has_is_refused(spawn: Spawn) -> None:
    for pid in (0, -1):
        with pytest.raises(ValueError, match=f"^{pid} is no pid$"):
            gcorefs.stop(pid)
    with gcorefs.stop(spawn("threads", 1).pid) as stop:
        with pytest.raises(RuntimeError, match="it has begun already"), stop:
            pass
        core = stop.core()
        for offset, length in ((-1, 10), (0, -1), (-20, 10)):
            with pytest.raises(ValueError, match="no core has a negative offset or length"):
                core.read(offset, length)
        with pytest.raises(RuntimeError, match="it has begun already"), stop:
            pass
        assert core.read(core.size, 1) == b""
