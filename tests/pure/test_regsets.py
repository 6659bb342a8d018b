"""Registers by name, and which of their values mean that a call must be restarted."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcorefs.arch import MACHINES
from gcorefs.arch.i386 import I386, NT_386_TLS
from gcorefs.arch.machine import Machine, RegisterKind
from gcorefs.arch.x86_64 import X86_64
from gcorefs.arch.x86_calls import AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, I386_CALLS, X86_64_CALLS
from gcorefs.arch.xsave import xsave_components
from gcorefs.sources import restart
from gcorefs.sources.restart import needs_restart, restarting_result

# struct user_regs_struct of sys/user.h: byte offsets on which debuggers rely.
OFFSETS = {
    "r15": 0, "r14": 8, "r13": 16, "r12": 24, "rbp": 32, "rbx": 40, "r11": 48, "r10": 56,
    "r9": 64, "r8": 72, "rax": 80, "rcx": 88, "rdx": 96, "rsi": 104, "rdi": 112,
    "orig_rax": 120, "rip": 128, "cs": 136, "eflags": 144, "rsp": 152, "ss": 160,
    "fs_base": 168, "gs_base": 176, "ds": 184, "es": 192, "fs": 200, "gs": 208,
}  # fmt: skip

# arch/x86/entry/syscalls/syscall_64.tbl, of the calls that return a plain EINTR.
RESTARTED = {
    "read": 0, "write": 1, "readv": 19, "writev": 20, "sendfile": 40, "connect": 42,
    "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "semop": 65,
    "rt_sigtimedwait": 128, "io_getevents": 208, "semtimedop": 220, "epoll_wait": 232,
    "splice": 275, "epoll_pwait": 281, "accept4": 288, "recvmmsg": 299, "sendmmsg": 307,
    "preadv2": 327, "pwritev2": 328, "io_uring_enter": 426, "epoll_pwait2": 441,
    "select": 23, "pselect6": 270, "ppoll": 271, "pread64": 17, "pwrite64": 18, "fallocate": 285,
    "preadv": 295, "pwritev": 296, "copy_file_range": 326, "open": 2, "stat": 4, "fstat": 5,
    "lstat": 6, "lseek": 8, "access": 21, "execve": 59, "fsync": 74, "fdatasync": 75,
    "getdents": 78, "chdir": 80, "readlink": 89, "statfs": 137, "fstatfs": 138, "getxattr": 191,
    "lgetxattr": 192, "fgetxattr": 193, "listxattr": 194, "llistxattr": 195, "flistxattr": 196,
    "getdents64": 217, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "execveat": 322, "statx": 332, "faccessat2": 439, "msync": 26, "fcntl": 72, "fchdir": 81,
    "chroot": 161, "inotify_add_watch": 254, "fanotify_mark": 301, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "open_tree": 428, "getxattrat": 464, "listxattrat": 465,
    "file_getattr": 468,
}  # fmt: skip
# close(2) has already closed; an EINTR of the others is a result, or the kernel handles it.
NEVER = {
    "close": 3, "poll": 7, "pause": 34, "nanosleep": 35, "exit": 60, "wait4": 61,
    "rt_sigsuspend": 130, "futex": 202, "restart_syscall": 219, "clock_nanosleep": 230,
    "dup3": 292, "io_pgetevents": 333, "close_range": 436,
    "ioctl": 16, "truncate": 76, "ftruncate": 77, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "swapoff": 168,
    "mount": 165, "umount2": 166, "setxattr": 188, "unlinkat": 263, "renameat2": 316,
    "getrandom": 318, "bpf": 321, "openat2": 437,
}  # fmt: skip


# struct user_regs_struct32 of arch/x86/include/asm/user32.h, and syscall_32.tbl.
OFFSETS_32 = {
    "ebx": 0, "ecx": 4, "edx": 8, "esi": 12, "edi": 16, "ebp": 20, "eax": 24, "ds": 28,
    "es": 32, "fs": 36, "gs": 40, "orig_eax": 44, "eip": 48, "cs": 52, "eflags": 56,
    "esp": 60, "ss": 64,
}  # fmt: skip
RESTARTED_32 = {
    "read": 3, "write": 4, "socketcall": 102, "ipc": 117, "readv": 145, "writev": 146,
    "rt_sigtimedwait": 177, "sendfile": 187, "sendfile64": 239, "io_getevents": 247,
    "epoll_wait": 256, "splice": 313, "epoll_pwait": 319, "recvmmsg": 337, "sendmmsg": 345,
    "connect": 362, "accept4": 364, "sendto": 369, "sendmsg": 370, "recvfrom": 371,
    "recvmsg": 372, "preadv2": 378, "pwritev2": 379, "recvmmsg_time64": 417,
    "semtimedop_time64": 420, "rt_sigtimedwait_time64": 421, "io_uring_enter": 426,
    "epoll_pwait2": 441,
    "select": 82, "_newselect": 142, "pselect6": 308, "ppoll": 309, "pselect6_time64": 413,
    "ppoll_time64": 414, "pread64": 180, "pwrite64": 181, "fallocate": 324, "preadv": 333,
    "pwritev": 334, "copy_file_range": 377, "open": 5, "execve": 11, "chdir": 12, "lseek": 19,
    "access": 33, "readlink": 85, "statfs": 99, "fstatfs": 100, "stat": 106, "lstat": 107,
    "fstat": 108, "fsync": 118, "_llseek": 140, "getdents": 141, "fdatasync": 148, "stat64": 195,
    "lstat64": 196, "fstat64": 197, "getdents64": 220, "getxattr": 229, "lgetxattr": 230,
    "fgetxattr": 231, "listxattr": 232, "llistxattr": 233, "flistxattr": 234, "statfs64": 268,
    "fstatfs64": 269, "openat": 295, "fstatat64": 300, "readlinkat": 305, "faccessat": 307,
    "execveat": 358, "statx": 383, "faccessat2": 439, "fcntl": 55, "chroot": 61, "fchdir": 133,
    "msync": 144, "fcntl64": 221, "inotify_add_watch": 292, "fanotify_mark": 339,
    "name_to_handle_at": 341, "open_by_handle_at": 342, "open_tree": 428, "getxattrat": 464,
    "listxattrat": 465, "file_getattr": 468,
}  # fmt: skip


def general(**words: int) -> bytes:
    values = (words.get(name, 0) & (1 << 64) - 1 for name in OFFSETS)
    return struct.pack("<27Q", *values)


def test_the_words_stand_where_the_kernel_has_them() -> None:
    assert {name: X86_64.offset(name) for name in X86_64.general} == OFFSETS
    assert X86_64.general_size == 216
    assert {name: I386.offset(name) for name in I386.general} == OFFSETS_32
    assert I386.general_size == 68


def test_a_register_that_there_is_not_has_no_place() -> None:
    with pytest.raises(ValueError, match="not in"):
        X86_64.offset("eax")


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=27, max_size=27))
def test_words_are_signed(values: list[int]) -> None:
    registers = struct.pack("<27q", *values)
    assert [X86_64.word(registers, name) for name in OFFSETS] == values


@given(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), min_size=17, max_size=17))
def test_words_of_32_bits_are_signed_as_well(values: list[int]) -> None:
    registers = struct.pack("<17i", *values)
    assert [I386.word(registers, name) for name in OFFSETS_32] == values


def test_a_machine_s_roles_are_registers_of_it() -> None:
    for machine in MACHINES.values():
        roles = {machine.call_number, machine.call_result, machine.stack_pointer}
        roles |= {machine.program_counter, *machine.call_arguments}
        assert roles <= set(machine.general)
        notes = [regset.note for regset in machine.regsets]
        assert len(set(notes)) == len(notes)
        kinds = [regset.kind for regset in machine.regsets]
        assert len(set(kinds)) == len(kinds)
        assert not {RegisterKind.GENERAL, RegisterKind.KERNEL_XSTATE} & set(kinds)


word = st.integers(0, (1 << 64) - 1)


@given(st.integers(0, 600), st.lists(word, min_size=6, max_size=6), word, word)
def test_a_system_call_gives_nine_registers_and_the_rest_are_zero(
    number: int, arguments: list[int], sp: int, pc: int
) -> None:
    rdi, rsi, rdx, r10, r8, r9 = arguments
    assert X86_64.partial(number, arguments, sp, pc) == general(
        orig_rax=number, rdi=rdi, rsi=rsi, rdx=rdx, r10=r10, r8=r8, r9=r9, rsp=sp, rip=pc
    )


def test_a_thread_outside_a_call_has_number_minus_one() -> None:
    registers = X86_64.partial(-1, [], 0x7FFF0000, 0x400000)
    assert registers == general(orig_rax=-1, rsp=0x7FFF0000, rip=0x400000)
    assert X86_64.word(registers, "orig_rax") == -1


@given(st.integers(-1, 600), st.lists(word, min_size=6, max_size=6), word, word)
def test_a_system_call_of_a_32_bit_program_is_cut_to_its_words(
    number: int, arguments: list[int], sp: int, pc: int
) -> None:
    ebx, ecx, edx, esi, edi, ebp = arguments
    words = dict.fromkeys(OFFSETS_32, 0)
    words |= {"ebx": ebx, "ecx": ecx, "edx": edx, "esi": esi, "edi": edi, "ebp": ebp}
    words |= {"orig_eax": number, "esp": sp, "eip": pc}
    expected = struct.pack("<17I", *(value & 0xFFFFFFFF for value in words.values()))
    assert I386.partial(number, arguments, sp, pc) == expected


def test_thread_local_descriptors_that_are_not_set_are_no_note() -> None:
    (tls,) = (regset for regset in I386.regsets if regset.note == NT_386_TLS)
    # struct user_desc as fill_user_desc makes it: number, base, limit, flags.
    unset = [(number, 0, 0, 0x28) for number in (12, 13, 14)]
    used = (12, 0xF7FAA580, 0xFFFFF, 0x51)
    for entries, is_active in [
        (unset, False),
        ([used, *unset[1:]], True),
        ([*unset[:2], (14, 0, 0, 0x20)], True),
    ]:
        data = b"".join(struct.pack("<4I", *entry) for entry in entries)
        assert tls.is_active is not None
        assert tls.is_active(data) is is_active


def xstate(mask: int, size: int = 2696) -> bytes:
    data = bytearray(b"\xff" * size)
    data[464:472] = struct.pack("<Q", mask)
    return bytes(data[:size])


@given(st.sets(st.integers(0, 62)))
def test_the_features_beyond_sse_are_described(features: set[int]) -> None:
    mask = sum(1 << number for number in features)
    assert xsave_components(xstate(mask)) == sorted(features - {0, 1})


@given(st.binary(max_size=575))
def test_a_state_without_an_xsave_header_has_no_features(data: bytes) -> None:
    assert xsave_components(data) == []


def test_the_shortest_state_with_a_header_is_read() -> None:
    assert xsave_components(xstate(0b111, 576)) == [2]
    assert xsave_components(xstate(0b111, 576)[:575]) == []


def needs(result: int, number: int, is_filtered: bool = False) -> bool:
    registers = general(rax=result, orig_rax=number)
    return needs_restart(X86_64, registers, lambda: AUDIT_ARCH_X86_64, lambda: is_filtered)


@pytest.mark.parametrize("call", RESTARTED)
def test_eintr_from_a_call_that_the_kernel_does_not_restart_is_repaired(call: str) -> None:
    assert needs(-errno.EINTR, RESTARTED[call])


def test_eintr_from_any_other_call_is_the_program_s() -> None:
    repaired = {number for number in range(-2, 1024) if needs(-errno.EINTR, number)}
    assert repaired == set(RESTARTED.values())


@pytest.mark.parametrize("call", NEVER)
def test_a_call_that_may_have_had_an_effect_is_never_repaired(call: str) -> None:
    assert not needs(-errno.EINTR, NEVER[call])


@pytest.mark.parametrize("kind", ["64", "32", "int 0x80"])
def test_eagain_is_repaired_only_if_it_comes_from_the_verifier(kind: str) -> None:
    machine = I386 if kind == "32" else X86_64
    names = BY_INT_80 if kind == "int 0x80" else machine.call_arguments
    architecture = AUDIT_ARCH_X86_64 if kind == "64" else AUDIT_ARCH_I386
    bpf = 321 if kind == "64" else 357
    repaired = {
        (number, command)
        for number in range(-2, 500)
        for command in range(12)
        if needs_restart(
            machine,
            failed(machine, errno.EAGAIN, number, **{names[0]: command}),
            lambda: architecture,
            lambda: True,
        )
    }
    assert repaired == {(bpf, 5)}  # BPF_PROG_LOAD (include/uapi/linux/bpf.h)


@pytest.mark.parametrize(("number", "code"), [(errno.EINTR, -514), (errno.EAGAIN, -513)])
def test_the_result_with_which_the_kernel_runs_a_call_again(number: int, code: int) -> None:
    assert restarting_result(X86_64, general(rax=-number, orig_rax=321, rdi=5)) == code


CREATING = (0o100, 0o200, 0o1000, 0o20200000)
"""O_CREAT, O_EXCL, O_TRUNC and O_TMPFILE (open(2)); fallocate(2) collapses and inserts."""
WITH_EFFECT = [
    *(("open", 1, flag) for flag in CREATING), *(("openat", 2, flag) for flag in CREATING),
    ("fallocate", 1, 0x08), ("fallocate", 1, 0x20),
]  # fmt: skip
BY_INT_80 = "rbx", "rcx", "rdx", "rsi", "rdi", "rbp"


@pytest.mark.parametrize("kind", ["64", "32", "int 0x80"])
@pytest.mark.parametrize(("call", "argument", "bits"), WITH_EFFECT)
def test_a_call_that_would_change_something_is_not_made_twice(
    call: str, argument: int, bits: int, kind: str
) -> None:
    machine = I386 if kind == "32" else X86_64
    number = (RESTARTED if kind == "64" else RESTARTED_32)[call]
    names = BY_INT_80 if kind == "int 0x80" else machine.call_arguments
    architecture = AUDIT_ARCH_X86_64 if kind == "64" else AUDIT_ARCH_I386
    for value, expected in ((bits, False), (bits | 1, False), (1, True)):
        registers = eintr(machine, number, **{names[argument]: value})
        assert needs_restart(machine, registers, lambda: architecture, lambda: False) is expected


OPERATION = {"io_uring_register": 427}
"""The number stands for many calls, and one of them is restarted."""


@pytest.mark.parametrize("kind", ["64", "32", "int 0x80"])
def test_of_the_operations_of_io_uring_register_one_is_made_again(kind: str) -> None:
    machine = I386 if kind == "32" else X86_64
    name = (BY_INT_80 if kind == "int 0x80" else machine.call_arguments)[1]
    architecture = AUDIT_ARCH_X86_64 if kind == "64" else AUDIT_ARCH_I386
    (number,) = OPERATION.values()
    repaired = {
        operation
        for operation in (*range(64), *range(1 << 31, (1 << 31) + 64))
        if needs_restart(
            machine, eintr(machine, number, **{name: operation}), lambda: architecture, lambda: True
        )
    }
    # IORING_REGISTER_SYNC_CANCEL, with IORING_REGISTER_USE_REGISTERED_RING and without
    # (include/uapi/linux/io_uring.h).
    assert repaired == {24, 24 | 1 << 31}


@pytest.mark.parametrize("call", RESTARTED)
def test_any_other_result_is_left_alone(call: str) -> None:
    results = {*range(-600, 600), 1 << 31, (1 << 32) - 4, (1 << 63) - 1} - {-errno.EINTR}
    assert not [result for result in results if needs(result, RESTARTED[call])]


def test_no_filter_is_asked_for_a_call_by_another_number() -> None:
    """restart_syscall(2) follows only -516, whatever the call was."""
    filtered = {result for result in range(-600, 600) if needs(result, 35, is_filtered=True)}
    assert filtered == {-516}
    assert not needs(-516, 35)


@pytest.mark.parametrize("code", [-512, -513, -514, -516])
@pytest.mark.parametrize("call", RESTARTED)
def test_the_kernel_s_own_restart_codes_are_left_to_it(call: str, code: int) -> None:
    assert not needs(code, RESTARTED[call])


@pytest.mark.parametrize("is_filtered", [False, True])
@pytest.mark.parametrize("result", [-errno.EINTR, 0, -512, -516])
def test_a_thread_outside_a_call_is_never_repaired(result: int, is_filtered: bool) -> None:
    # The register then has a value of the program, which may be any number.
    assert not needs(result, -1, is_filtered)


@pytest.mark.parametrize("call", RESTARTED)
def test_a_call_number_is_an_int(call: str) -> None:
    # The kernel does not look at the upper half (do_syscall_64); x32's numbers have bit 30.
    assert not needs(-errno.EINTR, RESTARTED[call] | 1 << 30)
    assert not needs(-errno.EINTR, RESTARTED[call] | 1 << 31)
    for upper in (1 << 32, 5 << 32, 1 << 63, (1 << 32) - 1 << 32):
        assert needs(-errno.EINTR, RESTARTED[call] | upper)


@pytest.mark.parametrize("architecture", [AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, 0xC00000B7])
@pytest.mark.parametrize("machine", [X86_64, I386])
def test_a_call_is_looked_for_among_the_numbers_by_which_it_was_made(
    machine: Machine, architecture: int
) -> None:
    """A 64-bit program may call by int $0x80.  A caller with neither convention is unknown."""
    lists = {AUDIT_ARCH_I386: RESTARTED_32, AUDIT_ARCH_X86_64: RESTARTED}
    repaired = {
        number
        for number in range(-2, 1024)
        if needs_restart(machine, eintr(machine, number), lambda: architecture, lambda: True)
    }
    assert repaired == set(lists.get(architecture, {}).values())


def eintr(machine: Machine, number: int, **arguments: int) -> bytes:
    return failed(machine, errno.EINTR, number, **arguments)


def failed(machine: Machine, error: int, number: int, **arguments: int) -> bytes:
    words = dict.fromkeys(machine.general, 0) | arguments
    words |= {machine.call_result: -error, machine.call_number: number}
    most = machine.most
    values = [value & most for value in words.values()]
    return struct.pack(f"<{len(values)}{'I' if machine is I386 else 'Q'}", *values)


def test_the_list_names_what_it_numbers() -> None:
    assert {name: number for number, name in X86_64_CALLS.items()} == RESTARTED | OPERATION
    assert {name: number for number, name in I386_CALLS.items()} == RESTARTED_32 | OPERATION
    assert (restart.EINTR, restart.ERESTARTNOHAND) == (errno.EINTR, 514)
