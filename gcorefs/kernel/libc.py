"""The two ways into libc, and which way each call goes.

A call through CDLL (`sleeping`) releases the interpreter lock and must get it back: 1,000 threads
took 16 ms to stop alone and 11 s beside one busy Python thread.  A call through PyDLL (`quick`)
keeps the lock.  If such a call sleeps, it stops all our threads, the event loop too.  So a call
goes through PyDLL only if it never sleeps on something that another user can hold.  These lists
say what each call sleeps on, with the function of the kernel.

These calls release the interpreter lock.  The caller waits for the answer under a bound
(mount/questions.py, mount/making.py, cli/stopping.py), and a thread that hangs stays counted:
- PTRACE_SEIZE: cred_guard_mutex of the process, which its execve(2) holds for as long as a file
  server likes (kernel/ptrace.c, ptrace_attach; fs/exec.c, begin_new_exec).
- get_robust_list(2): exec_update_lock, in the same way (kernel/futex/syscalls.c,
  futex_get_robust_list_common, since Linux 6.18).
- process_vm_readv(2) and process_vm_writev(2): exec_update_lock (kernel/fork.c, mm_access),
  mmap_lock of the process, and pages that somebody must supply (mm/process_vm_access.c,
  process_vm_rw_single_vec).
- statx(2) of a link in map_files: exec_update_lock and mmap_lock (fs/proc/base.c,
  map_files_d_revalidate).
- open(2) and read(2) of a file of /proc: the lock of the directory, which another reader of it
  holds while a page of its own buffer is supplied (fs/readdir.c, iterate_dir); exec_update_lock
  and mmap_lock (fs/proc/task_mmu.c, m_start); and the last user of an address space frees it and
  its files (kernel/fork.c, mmput).  status takes neither lock.
- fopen(3) and similar functions: as open(2) and read(2).
- bpf(2): an iterator holds nothing until it is read; a read of it is as open(2) and read(2) of a
  file of /proc (kernel/bpf/task_iter.c, task_vma_seq_get_next: mmap_lock).
- madvise(2), MADV_POPULATE_WRITE, malloc_trim(3), and mlock(2): our own memory, but it takes long.

These calls keep the lock, and sleep at most on our own memory, which nobody else holds:
- PTRACE_INTERRUPT: a spin lock (kernel/ptrace.c, ptrace_request, lock_task_sighand).
- Every other request of ptrace(2): until a stopped tracee has left its processor
  (ptrace_check_attach, wait_task_inactive).  Register sets, signal masks, queued signals and a
  word of struct user are in the kernel's own memory; no request here reads the tracee's memory.
- PTRACE_DETACH: tasklist_lock, a spin lock (ptrace_detach).
- wait4(2) and waitid(2) with WNOHANG: tasklist_lock, and the rest of a dead thread
  (kernel/exit.c, wait_consider_task, release_task).  Its memory and files went before.
- close(2) of a file of /proc: nothing (fs/proc/base.c has no flush; fs/seq_file.c,
  single_release).
- setgroups(2), setresuid(2), setresgid(2), capset(2): nothing (kernel/cred.c, commit_creds).
- memfd_secret(2), userfaultfd(2), mmap(2), mseal(2), munmap(2), pkey_alloc(2),
  pkey_mprotect(2): our own mmap_lock.

Python's own calls release the lock too: os.open, os.read, os.preadv, os.stat, os.listdir,
os.readlink, os.lseek, os.close, os.waitid, fcntl.ioctl.  os.getpgid keeps it, and does not sleep
(kernel/sys.c, do_getpgid).  The event loop of a mount uses none of these calls to ask about
another process (tests/mounted/test_event_loop.py).
"""

import ctypes
import os

quick = ctypes.PyDLL(None, use_errno=True)
sleeping = ctypes.CDLL(None, use_errno=True)


def failure() -> OSError:
    """The error of the last call, for `raise`."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
