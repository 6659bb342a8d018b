"""libbpf: loads a program from an object file, adapted to the running kernel (CO-RE).

libbpf comes with iproute2, so nearly every host has it.  It is used by a process that ends soon
after (sources/bpf/loading.py), so nothing is closed.
"""

import ctypes
import errno
import os

_OBJECT = ctypes.c_void_p


def load_program(path: str, name: str) -> int:
    """A descriptor of the loaded program `name` in the object file `path`.

    ENOENT: no such program.  ELIBACC: no libbpf.so.1.  Else what libbpf and bpf(2) say: EPERM,
    EINVAL if the kernel does not accept the program ...
    """
    library = _library()
    library.libbpf_set_print(None)  # else it writes to standard error
    found = library.bpf_object__open_file(os.fsencode(path), None)
    if not found:
        raise _error(ctypes.get_errno(), path)
    if status := library.bpf_object__load(found):
        raise _error(-status, path)
    program = library.bpf_object__find_program_by_name(found, os.fsencode(name))
    if not program:
        raise _error(ctypes.get_errno(), path)
    descriptor = int(library.bpf_program__fd(program))
    if descriptor < 0:
        raise _error(-descriptor, path)
    return descriptor


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise OSError(errno.ELIBACC, "there is no libbpf.so.1") from error
    library.bpf_object__open_file.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    library.bpf_object__open_file.restype = _OBJECT
    library.bpf_object__load.argtypes = (_OBJECT,)
    library.bpf_object__find_program_by_name.argtypes = (_OBJECT, ctypes.c_char_p)
    library.bpf_object__find_program_by_name.restype = _OBJECT
    library.bpf_program__fd.argtypes = (_OBJECT,)
    return library


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
