"""The CPUID instruction of x86 (Intel SDM vol. 2, CPUID)."""

import ctypes
import functools
import mmap
import os

from gcorefs.arch.page import PAGE_SIZE

_libc = ctypes.PyDLL(None, use_errno=True)
_mmap = _libc["mmap"]
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_mmap.restype = ctypes.c_void_p
_munmap = _libc["munmap"]
_munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


# mov %rdi,%r8; mov %esi,%eax; mov %edx,%ecx; push %rbx; cpuid; mov %eax,(%r8);
# mov %ebx,4(%r8); mov %ecx,8(%r8); mov %edx,12(%r8); pop %rbx; ret
_CPUID_CODE = bytes.fromhex("4989f8 89f0 89d1 53 0fa2 418900 41895804 41894808 4189500c 5b c3")


@functools.cache
def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """eax, ebx, ecx and edx of CPUID.

    /proc does not show the XSAVE layout, and /dev/cpu/*/cpuid rarely exists.  The code is in a
    memfd that is mapped without write permission, so systemd's MemoryDenyWriteExecute= allows it.
    OSError if the system does not allow us to execute it.
    """
    fd = os.memfd_create("gcorefs-cpuid", os.MFD_CLOEXEC)
    try:
        os.write(fd, _CPUID_CODE)
        code = _map_code(fd, len(_CPUID_CODE))
    finally:
        os.close(fd)
    try:
        out = (ctypes.c_uint32 * 4)()
        call = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)(code)
        call(ctypes.addressof(out), leaf, subleaf)
    finally:
        _munmap(code, PAGE_SIZE)
    return out[0], out[1], out[2], out[3]


def _map_code(fd: int, length: int) -> int:
    # mmap.mmap does not give the address of a read-only mapping.
    address = _mmap(None, length, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE, fd, 0)
    if address is None or address == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(address)
