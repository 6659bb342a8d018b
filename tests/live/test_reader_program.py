"""What a reader says is bounded: a process chooses the names of its functions."""

import os
import sys
from pathlib import Path

import pytest

from gcorefs.kernel.proc.system_files import available_memory
from gcorefs.readers.program import CUT, LONGEST_LINE, MOST_OUTPUT, ReaderError, run


def said(folder: Path, code: str, *accepted: int) -> str:
    return run([sys.executable, "-c", code], str(folder), accepted or (0,))


@pytest.mark.parametrize(
    "length", [0, 1, LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 1 << 20]
)
def test_a_long_line_is_cut_and_the_others_are_whole(tmp_path: Path, length: int) -> None:
    found = said(tmp_path, f"print('first'); print({length} * 'x'); print('last', end='')")
    shown = length * "x" if length <= LONGEST_LINE else LONGEST_LINE * "x" + CUT.decode()
    assert found == f"first\n{shown}\nlast"


def test_a_line_may_come_in_pieces(tmp_path: Path) -> None:
    piece = f"sys.stdout.write({LONGEST_LINE} * 'x'); sys.stdout.flush()"
    found = said(tmp_path, f"import sys\n{piece}\n{piece}\nprint('y')\nprint('z')")
    assert found == f"{LONGEST_LINE * 'x'}{CUT.decode()}\nz\n"


def test_a_reader_that_says_too_much_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match=rf" says more than {MOST_OUTPUT >> 20} MiB$"):
        said(tmp_path, "while True: print(1000 * 'x')")


def test_the_first_error_is_told_however_many_follow(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('an error\\n' + 1000000 * 'more of it\\n'); sys.exit(3)"
    with pytest.raises(ReaderError, match=r"failed with status 3: an error$"):
        said(tmp_path, code)
    assert said(tmp_path, code, 3) == ""


def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ReaderError, match=r"^eu-stack: No such file or directory$"):
        run([str(tmp_path / "eu-stack")], str(tmp_path))


def test_a_reader_has_half_of_the_memory_that_is_left(tmp_path: Path) -> None:
    size = available_memory() * 3 // 4
    with pytest.raises(ReaderError, match=r" failed with status 1: MemoryError$"):
        run([sys.executable, "-c", f"bytearray({size})"], str(tmp_path))
    # A file that it maps does not count.
    file = tmp_path / "sparse"
    file.touch()
    os.truncate(file, size)
    script = f"import mmap; f = open({str(file)!r}); print(len(mmap.mmap(f.fileno(), 0, prot=1)))"
    assert run([sys.executable, "-c", script], str(tmp_path)) == f"{size}\n"
