/*
 * eintr CALL [--restart] | eintr --list
 *
 * A worker thread blocks in one system call for ever; the main thread serves
 * commands on stdin, one a line, each answered by one line of JSON:
 *
 *   counts   the counters below
 *   blocked  wait (at most 5 s) until the worker sleeps inside the call
 *   signal   tgkill SIGUSR1 to the worker (handled; SA_RESTART with --restart)
 *   handled  wait (at most 5 s) until as many handlers ran as signals were sent
 *   wake     let the call succeed once and wait (at most 5 s) until it has;
 *            only after blocked
 *   quit     end, as does EOF
 *
 * The first line of output describes the case: pid, tid, call, nr (the call's
 * number; /proc/T/syscall shows restart_syscall after some stops), wake
 * (whether `wake` works), repair (the kernel gives EINTR to a thread that was
 * only stopped) and handler, the effect of a handler on the blocked call:
 *   "eintr"   EINTR, with SA_RESTART or without
 *   "flag"    EINTR without SA_RESTART, a restart with it
 *   "never"   always a restart (-ERESTARTNOINTR)
 *
 * Counters.  The handler looks at the context that it interrupted.  If that is the
 * instruction after the one `syscall` of this file with the result -EINTR, then
 * the exit of the call ran the handler, and the call gets EINTR.
 * If it is the `syscall` itself, the call is about to be (re)started.
 *   calls      system calls entered (a restart is not a new call)
 *   ok         calls that succeeded
 *   genuine    calls that returned EINTR through such a handler
 *   spurious   calls that returned EINTR without one
 *   other      calls that failed otherwise; errno is the last such error
 *   handled    handlers run
 *   restarted  handlers that ran in front of the `syscall`
 *   outside    handlers that ran anywhere else
 * At any moment when `blocked` has answered true:
 *   calls == ok + genuine + spurious + other + 1
 *   handled == genuine + restarted + outside
 * spurious has no false positives.  It misses only an EINTR if a handler runs
 * before the thread's next instruction; no program can distinguish that from a
 * genuine one.  The test asserts spurious == 0 and other == 0.
 * A signal that is sent to a blocked worker must add one to genuine and none to
 * restarted ("eintr", or "flag" without --restart), or one to restarted and none
 * to genuine (otherwise), if no other signal is sent before it is handled.  If a
 * thread has left a stop but has not entered its call again, a signal may add to
 * restarted, as for every call that the kernel itself restarts; in the *_mask
 * cases it may not, because there SIGUSR1 is unblocked only inside the call.
 *
 * On aarch64, read `svc` for `syscall`.  Built for 32 bits, the call is int $0x80 and has more forms: through
 * socketcall(2) and ipc(2), and with 64-bit times.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/net.h>
#include <linux/netlink.h>
#include <linux/time_types.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef SYS_getxattrat /* Linux 6.13 */
#define SYS_getxattrat 464
#define SYS_listxattrat 465
#endif
#ifndef SYS_file_getattr /* Linux 6.17 */
#define SYS_file_getattr 468
#endif

#define MASK(sig) (1ull << ((sig) - 1))
#define MUST(e) must((long)(e), #e)

static long must(long r, const char *what)
{
	if (r == -1) {
		perror(what);
		exit(2);
	}
	return r;
}

/* One `syscall` for every blocking call, so that the handler knows its address. */
long raw6(long nr, long a, long b, long c, long d, long e, long f);
extern const char raw_insn[], raw_after[];
#ifdef __aarch64__
#define PROGRAM_COUNTER(context) ((context)->uc_mcontext.pc)
#define RESULT(context) ((long)(context)->uc_mcontext.regs[0])
/* Global, because the linker gives all local symbols of a section one place in the GOT. */
__asm__(".text\n.globl raw6, raw_insn, raw_after\nraw6:\n"
	"	mov x8, x0\n	mov x0, x1\n	mov x1, x2\n	mov x2, x3\n"
	"	mov x3, x4\n	mov x4, x5\n	mov x5, x6\n"
	"raw_insn:\n	svc #0\nraw_after:\n	ret\n");
#elif defined(__i386__)
#define PROGRAM_COUNTER(context) ((unsigned long)(context)->uc_mcontext.gregs[REG_EIP])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_EAX])
__asm__(".text\nraw6:\n"
	"	push %ebp\n	push %edi\n	push %esi\n	push %ebx\n"
	"	mov 20(%esp), %eax\n	mov 24(%esp), %ebx\n	mov 28(%esp), %ecx\n"
	"	mov 32(%esp), %edx\n	mov 36(%esp), %esi\n	mov 40(%esp), %edi\n"
	"	mov 44(%esp), %ebp\n"
	"raw_insn:\n	int $0x80\nraw_after:\n"
	"	pop %ebx\n	pop %esi\n	pop %edi\n	pop %ebp\n	ret\n");
#else
#define PROGRAM_COUNTER(context) ((unsigned long)(context)->uc_mcontext.gregs[REG_RIP])
#define RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
__asm__(".text\nraw6:\n"
	"	mov %rdi, %rax\n	mov %rsi, %rdi\n	mov %rdx, %rsi\n"
	"	mov %rcx, %rdx\n	mov %r8, %r10\n	mov %r9, %r8\n"
	"	mov 8(%rsp), %r9\n"
	"raw_insn:\n	syscall\nraw_after:\n	ret\n");
#endif
#define RAW(...) RAW_(__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define RAW_(nr, a, b, c, d, e, f, ...) \
	raw6(nr, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static atomic_long calls, ok, genuine, spurious, other, handled, restarted, outside, last_errno;
static volatile sig_atomic_t hit;
static long sent, ok_before;
static pid_t main_tid;
static _Atomic pid_t worker_tid;

static void on_usr1(int sig, siginfo_t *si, void *uc)
{
	ucontext_t *context = uc;
	unsigned long pc = PROGRAM_COUNTER(context);

	(void)sig, (void)si;
	if (pc == (unsigned long)raw_after && RESULT(context) == -EINTR && !hit)
		hit = 1;
	else if (pc == (unsigned long)raw_insn)
		restarted++;
	else
		outside++;
	handled++;
}

/* The files on which the cases block: rd and wr are two ends of the same object. */
static int rd, wr, ep, ipc, aux;
static char buf[1 << 16];
static pid_t child;
static _Atomic uint32_t word, word2;
static struct timespec hour = {3600, 0}, deadline, real_deadline;
static struct __kernel_timespec hour64 = {3600, 0}, deadline64, real_deadline64;
static struct iovec iov = {buf, 1};
static struct mmsghdr mm = {{.msg_iov = &iov, .msg_iovlen = 1}, 0};
static struct { long type; char text[1024]; } msg = {1, ""};
static struct sembuf take = {0, -1, 0};
static uint64_t usr1 = MASK(SIGUSR1), usr2 = MASK(SIGUSR2), none;
static struct { uint64_t *set; size_t size; } none_arg = {&none, 8};
static struct pollfd pfd = {0, POLLIN, 0};
static fd_set fds;
static struct epoll_event event;
static struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
static struct flock64 whole64 = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
static struct futex_waitv waitv = {0, 0, FUTEX_32, 0};
static aio_context_t aio;
static struct io_event aio_event;
static unsigned *sq_tail, *sq_array, *cq_head, *cq_tail;
static struct io_uring_sqe *sqe;
static struct io_uring_getevents_arg uring_timeout = {0, 8, 0, 0};
static struct sockaddr_storage addr;
static socklen_t addr_len;
static char path[64];

static void nonblock(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }
static void block(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); }
static void one(int fd) { MUST(write(fd, "wake\nabc", 8)); }

static void timeouts(int fd)
{
	struct timeval tv = {3600, 0};

	MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
	MUST(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)));
}

static void fill(int fd)
{
	nonblock(fd);
	while (write(fd, buf, sizeof(buf)) > 0 || write(fd, buf, 1) > 0)
		;
	block(fd);
}

static void drain(int fd)
{
	nonblock(fd);
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	block(fd);
}

/* Sockets: rd is the worker's, wr the main thread's; _to are those with time-outs. */
static void pair(int type)
{
	int v[2];

	MUST(socketpair(AF_UNIX, type, 0, v));
	rd = v[0], wr = v[1];
}

static int any_addr(int type, int family)
{
	int fd = MUST(socket(family, type, 0));
	struct sockaddr *sa = (struct sockaddr *)&addr;

	/* Bound with only its family, an AF_UNIX socket gets an abstract name. */
	sa->sa_family = family;
	addr_len = family == AF_UNIX ? sizeof(sa_family_t) : sizeof(struct sockaddr_in);
	if (family == AF_INET)
		((struct sockaddr_in *)sa)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	MUST(bind(fd, sa, addr_len));
	addr_len = sizeof(addr);
	MUST(getsockname(fd, sa, &addr_len));
	return fd;
}

static void inet_pair(int type)
{
	rd = any_addr(type, AF_INET);
	wr = MUST(socket(AF_INET, type, 0));
	if (type == SOCK_STREAM)
		MUST(listen(rd, 1));
	MUST(connect(wr, (void *)&addr, addr_len));
	if (type == SOCK_STREAM)
		rd = MUST(accept(rd, NULL, NULL));
	timeouts(rd);
}

static void s_sock(void) { pair(SOCK_STREAM); }
static void s_sock_to(void) { s_sock(); timeouts(rd); }
static void s_dgram_to(void) { pair(SOCK_DGRAM); timeouts(rd); }
static void s_seq_to(void) { pair(SOCK_SEQPACKET); timeouts(rd); }
static void s_tcp_to(void) { inet_pair(SOCK_STREAM); }
static void s_udp_to(void) { inet_pair(SOCK_DGRAM); }
static void s_full(void) { s_sock(); fill(rd); }
static void s_full_to(void) { s_sock_to(); fill(rd); }
static void s_dgram_full_to(void) { s_dgram_to(); fill(rd); }
static void s_netlink_to(void) { rd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)); timeouts(rd); }
static void s_splice_to(void) { int v[2]; s_sock_to(); MUST(pipe(v)); aux = v[1]; }
static void s_splice_tcp(void) { int v[2]; s_tcp_to(); MUST(pipe(v)); aux = v[1]; }
/* Not from /dev/zero: that gives EINVAL before Linux 6.5. */
static void s_sendfile_to(void) { s_full_to(); aux = MUST(memfd_create("zeros", 0)); MUST(ftruncate(aux, 1 << 30)); }
static void w_one(void) { one(wr); }
static void w_drain(void) { drain(wr); }
static void a_drain(long r) { (void)r; drain(rd); }
static void a_close(long r) { close(r); }

static void listener(int family) { rd = any_addr(SOCK_STREAM, family); MUST(listen(rd, 0)); }
static void s_accept(void) { listener(AF_UNIX); }
static void s_accept_to(void) { listener(AF_UNIX); timeouts(rd); }
static void s_accept_tcp_to(void) { listener(AF_INET); timeouts(rd); }

static void w_connect(void)
{
	int fd = MUST(socket(addr.ss_family, SOCK_STREAM, 0));

	MUST(connect(fd, (void *)&addr, addr_len));
	close(fd);
}

/* A listener with backlog 0 holds one connection; the next one waits. */
static void s_connect(void)
{
	listener(AF_UNIX);
	MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (void *)&addr, addr_len));
}

static void s_connect_tcp(void)
{
	listener(AF_INET);
	MUST(connect(MUST(socket(AF_INET, SOCK_STREAM, 0)), (void *)&addr, addr_len));
}

/* A failed connect leaves its socket half connected: use a new one. */
static void b_connect(void)
{
	int syn = 127;

	if (wr)
		close(wr);
	wr = MUST(socket(addr.ss_family, SOCK_STREAM, 0));
	if (addr.ss_family == AF_INET)
		setsockopt(wr, IPPROTO_TCP, TCP_SYNCNT, &syn, sizeof(syn));
}

static void b_connect_to(void) { b_connect(); timeouts(wr); }
static void w_accept(void) { close(MUST(accept(rd, NULL, NULL))); }

/* Pipes, eventfds and other files. */
static void s_pipe(void) { int v[2]; MUST(pipe(v)); rd = v[0], wr = v[1]; MUST(pipe(v)); aux = v[1]; }
static void s_pipe_full(void) { s_pipe(); fill(wr); }
static void w_pipe_drain(void) { drain(rd); }

static void s_fifo(void)
{
	snprintf(path, sizeof(path), "/tmp/eintr.%d", getpid());
	MUST(mkfifo(path, 0600));
	rd = MUST(open(path, O_PATH));
	unlink(path);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rd);
}

static void w_fifo(void) { close(MUST(open(path, O_WRONLY | O_NONBLOCK))); }

static void s_event(void)
{
	rd = wr = MUST(eventfd(0, 0));
	ep = MUST(epoll_create1(0));
	event.events = EPOLLIN;
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, rd, &event));
	pfd.fd = rd;
	FD_SET(rd, &fds);
}

static void s_event_full(void) { s_event(); MUST(eventfd_write(wr, UINT64_MAX - 1)); memset(buf, 1, 8); }
static void w_event_drain(void) { eventfd_t v; MUST(eventfd_read(rd, &v)); }
static void a_fds(long r) { a_drain(r); FD_SET(rd, &fds); }
static void s_timerfd(void) { struct itimerspec t = {{0, 0}, hour}; rd = MUST(timerfd_create(CLOCK_MONOTONIC, 0)); timerfd_settime(rd, 0, &t, NULL); }
static void s_signalfd(void) { sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR2); rd = MUST(signalfd(-1, &s, 0)); }
static void w_usr2(void) { MUST(syscall(SYS_tgkill, getpid(), worker_tid, SIGUSR2)); }
static void s_memfd(void) { wr = MUST(memfd_create("eintr", 0)); one(wr); snprintf(path, sizeof(path), "/proc/self/fd/%d", wr); }

static void s_inotify(void)
{
	s_memfd();
	rd = MUST(inotify_init());
	MUST(inotify_add_watch(rd, path, IN_MODIFY));
	wr = MUST(open(path, O_RDWR)); /* the memfd's own file has FMODE_NONOTIFY */
}

static void s_fanotify(void) { rd = MUST(fanotify_init(FAN_CLASS_NOTIF, O_RDONLY)); }
static void s_uffd(void) { struct uffdio_api api = {.api = UFFD_API}; rd = MUST(syscall(SYS_userfaultfd, 0)); MUST(ioctl(rd, UFFDIO_API, &api)); }
static void s_tty(void) { wr = MUST(posix_openpt(O_RDWR | O_NOCTTY)); MUST(unlockpt(wr)); rd = MUST(open(ptsname(wr), O_RDWR | O_NOCTTY)); }

/* The line discipline passes on buffered data a little later: fill it until it stays full. */
static void s_tty_full(void)
{
	struct pollfd p = {0, POLLOUT, 0};

	s_tty();
	p.fd = rd;
	nonblock(rd);
	while (poll(&p, 1, 50) == 1)
		while (write(rd, buf, 4096) > 0)
			;
	block(rd);
}

/* Locks: lock files opened twice, or held by a child for POSIX locks. */
static void s_flock(void) { s_memfd(); rd = MUST(open(path, O_RDWR)); MUST(flock(wr, LOCK_EX)); }
static void w_flock(void) { MUST(flock(wr, LOCK_UN)); }
static void a_flock(long r) { (void)r; MUST(flock(rd, LOCK_UN)); MUST(flock(wr, LOCK_EX)); }
static void s_ofd(void) { s_memfd(); rd = MUST(open(path, O_RDWR)); MUST(fcntl(wr, F_OFD_SETLK, &whole)); }

static void s_child(void)
{
	int v[2];
	char c;

	MUST(pipe(v));
	child = MUST(fork());
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (wr && fcntl(wr, F_SETLKW, &whole))
			_exit(1);
		for (MUST(write(v[1], "x", 1));;)
			pause();
	}
	MUST(read(v[0], &c, 1));
	close(v[0]), close(v[1]);
}

static void s_posix(void) { s_memfd(); s_child(); }
static void w_child(void) { MUST(kill(child, SIGKILL)); }
static void a_child(long r) { (void)r; s_child(); }

static void a_posix(long r)
{
	struct flock un = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	waitpid(child, NULL, 0);
	MUST(fcntl(wr, F_SETLK, &un));
	a_child(r);
}

/* System V and POSIX IPC. */
static void rm_sem(void) { semctl(ipc, 0, IPC_RMID); }
static void rm_msg(void) { msgctl(ipc, IPC_RMID, NULL); }
static void s_sem(void) { ipc = MUST(semget(IPC_PRIVATE, 1, 0600)); atexit(rm_sem); }
static void w_sem(void) { struct sembuf give = {0, 1, 0}; MUST(semop(ipc, &give, 1)); }
static void s_msg(void) { ipc = MUST(msgget(IPC_PRIVATE, 0600)); atexit(rm_msg); }
static void s_msg_full(void) { s_msg(); while (!msgsnd(ipc, &msg, 1024, IPC_NOWAIT)); }
static void w_msgsnd(void) { MUST(msgsnd(ipc, &msg, 1024, 0)); }
static void w_msgrcv(void) { MUST(msgrcv(ipc, &msg, 1024, 0, 0)); }

static void s_mq(void)
{
	struct mq_attr attr = {.mq_maxmsg = 1, .mq_msgsize = 8};
	char name[32];

	snprintf(name, sizeof(name), "/eintr.%d", getpid());
	rd = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr));
	mq_unlink(name);
}

static void w_mq_send(void) { MUST(mq_send(rd, "x", 1, 0)); }
static void w_mq_receive(void) { MUST(mq_receive(rd, buf, 8, NULL)); }
static void s_mq_full(void) { s_mq(); w_mq_send(); }

static void s_none(void) { }

/* A time-out that the kernel cannot or must not write back (fs/select.c, poll_select_finish). */
static void *ro_timeout, *mapped;
static void s_event_ro(void)
{
	s_event();
	ro_timeout = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*(struct __kernel_timespec *)ro_timeout = hour64;
	MUST(mprotect(ro_timeout, 4096, PROT_READ));
}
static void s_event_sticky(void) { s_event(); MUST(personality(personality(-1) | STICKY_TIMEOUTS)); }

/*
 * A FUSE file system.  Its server answers one kind of request with EINTR when it is interrupted
 * (FUSE_INTERRUPT), or with success when it is woken, and all others at once.  For lookups, that
 * kind is the name "slow".
 */
#define FUSE_AT "/mnt"
static int fuse_waker;
static unsigned fuse_open_flags = FOPEN_DIRECT_IO;
static int fuse_is_deaf; /* it does not honour FUSE_INTERRUPT */
/* It has the request for which the call waits.  Before that, the call may wait for another one. */
static volatile int *fuse_has_parked;

static void fuse_send(int dev, const struct fuse_in_header *to, int error, const void *data, size_t size)
{
	struct fuse_out_header head = {sizeof(head) + size, error, to->unique};
	struct iovec v[] = {{&head, sizeof(head)}, {(void *)data, size}};

	MUST(writev(dev, v, 2));
}

static void fuse_answer(int dev, const struct fuse_in_header *in)
{
	static const struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 4096, .flags = FUSE_POSIX_LOCKS};
	static const struct fuse_lk_out unlocked = {.lk = {.type = F_UNLCK}};
	struct fuse_open_out opened = {.open_flags = fuse_open_flags};
	static const struct fuse_statfs_out statfs;
	static const struct fuse_lseek_out sought;
	static const struct fuse_write_out written = {.size = 1};
	static const struct fuse_getxattr_out xattr = {.size = 1};
	struct fuse_entry_out entry = {.nodeid = 2, .attr = {.ino = 2, .mode = S_IFREG | 0700, .nlink = 1, .size = 4096}};
	struct fuse_attr_out attr = {.attr = entry.attr};

	switch (in->opcode) {
	case FUSE_INIT: fuse_send(dev, in, 0, &init, sizeof(init)); break;
	case FUSE_LOOKUP: fuse_send(dev, in, 0, &entry, sizeof(entry)); break;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		if (in->nodeid == FUSE_ROOT_ID)
			attr.attr.mode = S_IFDIR | 0700, attr.attr.ino = 1;
		fuse_send(dev, in, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR: fuse_send(dev, in, 0, &opened, sizeof(opened)); break;
	case FUSE_READ: fuse_send(dev, in, 0, "x", 1); break;
	case FUSE_WRITE:
	case FUSE_COPY_FILE_RANGE: fuse_send(dev, in, 0, &written, sizeof(written)); break;
	case FUSE_STATFS: fuse_send(dev, in, 0, &statfs, sizeof(statfs)); break;
	case FUSE_LSEEK: fuse_send(dev, in, 0, &sought, sizeof(sought)); break;
	case FUSE_GETLK: fuse_send(dev, in, 0, &unlocked, sizeof(unlocked)); break;
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR: fuse_send(dev, in, 0, &xattr, sizeof(xattr)); break;
	case FUSE_READDIR:
	case FUSE_FSYNC:
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_ACCESS:
	case FUSE_REMOVEXATTR:
	case FUSE_FALLOCATE: fuse_send(dev, in, 0, NULL, 0); break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: break;
	default: fuse_send(dev, in, -ENOSYS, NULL, 0);
	}
}

static void fuse_serve(int dev, int bell, unsigned slow)
{
	static union { struct fuse_in_header head; char bytes[1 << 16]; } in;
	struct fuse_in_header parked = {0};
	struct pollfd p[] = {{dev, POLLIN, 0}, {bell, POLLIN, 0}};
	int owed = 0;
	char c;

	for (;;) {
		MUST(poll(p, 2, -1));
		if (p[1].revents) {
			MUST(read(bell, &c, 1));
			owed++;
		}
		if (parked.unique && owed) {
			fuse_answer(dev, &parked);
			parked.unique = 0, owed--;
		}
		*fuse_has_parked = !!parked.unique;
		if (!p[0].revents)
			continue;
		MUST(read(dev, in.bytes, sizeof(in)));
		if (in.head.opcode == FUSE_INTERRUPT) {
			struct fuse_interrupt_in *which = (void *)(&in.head + 1);

			if (parked.unique && which->unique == parked.unique && !fuse_is_deaf) {
				fuse_send(dev, &parked, -EINTR, NULL, 0);
				parked.unique = 0;
			}
		} else if (in.head.opcode == slow && (slow != FUSE_LOOKUP || !strcmp((char *)(&in.head + 1), "slow"))) {
			parked = in.head;
			if (owed)
				fuse_answer(dev, &parked), parked.unique = 0, owed--;
		} else {
			fuse_answer(dev, &in.head);
		}
		*fuse_has_parked = !!parked.unique;
	}
}

static void fuse(unsigned slow, const char *file)
{
	int bell[2], dev = MUST(open("/dev/fuse", O_RDWR | O_CLOEXEC));
	char options[64];

	MUST(unshare(CLONE_NEWNS));
	MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
	MUST(mount("eintr", FUSE_AT, "fuse.eintr", 0, options));
	MUST(pipe(bell));
	fuse_has_parked = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	MUST(fuse_has_parked == MAP_FAILED ? -1 : 0);
	if (!MUST(fork())) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(bell[1]);
		fuse_serve(dev, bell[0], slow);
	}
	close(dev), close(bell[0]);
	fuse_waker = bell[1];
	snprintf(path, sizeof(path), FUSE_AT "/slow");
	if (file)
		rd = MUST(open(file, strcmp(file, FUSE_AT) ? O_RDWR : O_RDONLY)), aux = MUST(dup(rd));
}

static void s_fuse_lookup(void) { fuse(FUSE_LOOKUP, NULL); }
#define S_FUSE(name, op, file) \
	static __attribute__((unused)) void s_fuse_##name(void) { fuse(op, file); }
S_FUSE(open, FUSE_OPEN, NULL)
S_FUSE(getattr, FUSE_GETATTR, FUSE_AT "/file")
S_FUSE(statfs, FUSE_STATFS, FUSE_AT)
S_FUSE(readdir, FUSE_READDIR, FUSE_AT)
S_FUSE(read, FUSE_READ, FUSE_AT "/file")
S_FUSE(write, FUSE_WRITE, FUSE_AT "/file")
S_FUSE(fsync, FUSE_FSYNC, FUSE_AT "/file")
S_FUSE(lseek, FUSE_LSEEK, FUSE_AT "/file")
S_FUSE(fallocate, FUSE_FALLOCATE, FUSE_AT "/file")
S_FUSE(copy, FUSE_COPY_FILE_RANGE, FUSE_AT "/file")
S_FUSE(getxattr, FUSE_GETXATTR, FUSE_AT "/file")
S_FUSE(listxattr, FUSE_LISTXATTR, FUSE_AT "/file")
S_FUSE(access, FUSE_ACCESS, FUSE_AT)
S_FUSE(getlk, FUSE_GETLK, FUSE_AT "/file")
static void s_fuse_inotify(void) { s_fuse_lookup(); rd = MUST(inotify_init()); }
static void s_fuse_fanotify(void) { s_fuse_lookup(); s_fanotify(); }
static union { struct file_handle head; char bytes[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } handle;
static int mount_id;
static struct { uint64_t value; uint32_t size, flags; } xattr_args; /* struct xattr_args */
static void b_handle(void) { handle.head.handle_bytes = MAX_HANDLE_SZ; }
static void a_getlk(long r) { (void)r; whole.l_type = F_WRLCK; }
static __attribute__((unused)) void a_getlk64(long r) { (void)r; whole64.l_type = F_WRLCK; }

static void s_fuse_msync(void)
{
	fuse_open_flags = 0; /* else it cannot be mapped */
	s_fuse_fsync();
	mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, rd, 0);
	MUST(mapped == MAP_FAILED ? -1 : 0);
}

static void s_fuse_handle(void)
{
	s_fuse_open();
	rd = MUST(open(FUSE_AT, O_RDONLY));
	b_handle();
	MUST(name_to_handle_at(AT_FDCWD, FUSE_AT "/file", &handle.head, &mount_id, 0));
}

static void w_fuse(void) { MUST(write(fuse_waker, "x", 1)); }
static int64_t fuse_from, fuse_to = 2048;
static void a_copy(long r) { (void)r; fuse_from = 0, fuse_to = 2048; }
static void w_futex(void) { syscall(SYS_futex, &word, FUTEX_WAKE, 1); }
static void s_futex(void) { waitv.uaddr = (uintptr_t)&word; }
static void s_pi(void) { word = main_tid; }
static void w_pi(void) { MUST(syscall(SYS_futex, &word, FUTEX_UNLOCK_PI)); }
static void a_pi(long r) { (void)r; word = main_tid; }
static void w_requeue(void) { MUST(syscall(SYS_futex, &word, FUTEX_CMP_REQUEUE_PI, 1, 0, &word2, 0)); }
static void a_requeue(long r) { (void)r; word2 = 0; }

/* Asynchronous I/O: a read that the main thread submits is done at once. */
static void s_aio(void) { s_memfd(); MUST(syscall(SYS_io_setup, 8, &aio)); }

static void w_aio(void)
{
	struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = wr,
			  .aio_buf = (uintptr_t)buf, .aio_nbytes = 1}, *list = &cb;

	MUST(syscall(SYS_io_submit, aio, 1, &list));
}

static void s_uring(void)
{
	struct io_uring_params p = {0};
	char *sq, *cq;

	rd = MUST(syscall(SYS_io_uring_setup, 8, &p));
	sq = (char *)MUST(mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, rd, IORING_OFF_SQ_RING));
	cq = (char *)MUST(mmap(NULL, p.cq_off.cqes + p.cq_entries * 16, PROT_READ | PROT_WRITE, MAP_SHARED, rd, IORING_OFF_CQ_RING));
	sqe = (void *)MUST(mmap(NULL, p.sq_entries * sizeof(*sqe), PROT_READ | PROT_WRITE, MAP_SHARED, rd, IORING_OFF_SQES));
	sq_tail = (void *)(sq + p.sq_off.tail), sq_array = (void *)(sq + p.sq_off.array);
	cq_head = (void *)(cq + p.cq_off.head), cq_tail = (void *)(cq + p.cq_off.tail);
	memset(sqe, 0, p.sq_entries * sizeof(*sqe)); /* opcode 0 is IORING_OP_NOP */
	memset(sq_array, 0, p.sq_entries * 4);
	uring_timeout.ts = (uintptr_t)&hour64;
}

static void w_uring(void)
{
	__atomic_add_fetch(sq_tail, 1, __ATOMIC_RELEASE);
	MUST(syscall(SYS_io_uring_enter, rd, 1, 0, 0, NULL, 0));
}

static void a_uring(long r) { (void)r; __atomic_store_n(cq_head, __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE), __ATOMIC_RELEASE); }

/* The worker cancels a request that is under way in a worker of io_uring, and waits for its end. */
static struct io_uring_sync_cancel_reg cancel = {.fd = -1, .timeout = {-1, -1}};
static int is_under_way;

static void s_cancel(void)
{
	fuse_is_deaf = 1;
	s_fuse_fsync();
	wr = aux, aux = rd;
	s_uring();
}

static void b_cancel(void)
{
	if (is_under_way)
		return; /* a handler has ended the last call */
	is_under_way = 1;
	sqe->opcode = IORING_OP_FSYNC;
	sqe->flags = IOSQE_ASYNC;
	sqe->fd = aux;
	sqe->user_data = ++cancel.addr;
	w_uring();
}

static void a_cancel(long r) { is_under_way = 0; a_uring(r); }

/*
 * X(name, call, setup, before each call, wake, after each success, repair,
 *   handler, SIGUSR1 blocked outside the call, arguments...)
 * repair: the kernel's own code for the interrupted call is -EINTR, from
 *   ep_poll(), do_semtimedop(), do_sigtimedwait(), io_getevents(),
 *   io_cqring_wait(), io_sync_cancel(), poll_select_finish(), a FUSE server or, for a finite time-out,
 *   sock_intr_errno().
 * handler: E "eintr", F "flag", N "never".
 * X64 is for 64 bits only, X32 for 32 bits.  XOLD and XOLD64 are calls that aarch64 never had.
 */
#ifdef __i386__
#define X64(...)
#define X32(...) X(__VA_ARGS__)
#else
#define X64(...) X(__VA_ARGS__)
#define X32(...)
#endif
#ifdef __aarch64__
#define XOLD(...)
#define XOLD64(...)
#else
#define XOLD(...) X(__VA_ARGS__)
#define XOLD64(...) X64(__VA_ARGS__)
#endif
/* The arguments of socketcall(2) are in memory. */
#define SOCKET(op, ...) SOCKET_(op, __VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SOCKET_(op, a, b, c, d, e, f, ...) \
	op, ((long[]){(long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f)})
/* include/uapi/linux/ipc.h; glibc has no copy of it.  msgrcv in the form of IPC_64. */
#define IPC_SEMOP 1
#define IPC_SEMTIMEDOP 4
#define IPC_MSGSND 11
#define IPC_MSGRCV (1 << 16 | 12)
#define SOCKADDR &addr, addr_len
#define GETEV IORING_ENTER_GETEVENTS
#define CASES \
XOLD(epoll_wait, epoll_wait, s_event, 0, w_one, a_drain, 1, E, 0, ep, &event, 1, 3600000) \
X(epoll_pwait, epoll_pwait, s_event, 0, w_one, a_drain, 1, E, 0, ep, &event, 1, -1, 0, 8) \
X(epoll_pwait_mask, epoll_pwait, s_event, 0, w_one, a_drain, 1, E, 1, ep, &event, 1, -1, &none, 8) \
X(epoll_pwait2, epoll_pwait2, s_event, 0, w_one, a_drain, 1, E, 0, ep, &event, 1, &hour64, 0, 8) \
X(epoll_pwait2_mask, epoll_pwait2, s_event, 0, w_one, a_drain, 1, E, 1, ep, &event, 1, &hour64, &none, 8) \
X64(semop, semop, s_sem, 0, w_sem, 0, 1, E, 0, ipc, &take, 1) \
X64(semtimedop, semtimedop, s_sem, 0, w_sem, 0, 1, E, 0, ipc, &take, 1, &hour) \
X(rt_sigtimedwait, rt_sigtimedwait, s_none, 0, w_usr2, 0, 1, E, 0, &usr2, 0, &hour, 8) \
X(sigwaitinfo, rt_sigtimedwait, s_none, 0, w_usr2, 0, 1, E, 0, &usr2, 0, 0, 8) \
X(io_getevents, io_getevents, s_aio, 0, w_aio, 0, 1, E, 0, aio, 1, 1, &aio_event, &hour) \
X(io_pgetevents, io_pgetevents, s_aio, 0, w_aio, 0, 0, E, 0, aio, 1, 1, &aio_event, &hour, 0) \
X(io_pgetevents_mask, io_pgetevents, s_aio, 0, w_aio, 0, 0, E, 1, aio, 1, 1, &aio_event, &hour, &none_arg) \
X(io_uring_enter, io_uring_enter, s_uring, 0, w_uring, a_uring, 1, E, 0, rd, 0, 1, GETEV, 0, 8) \
X(io_uring_enter_mask, io_uring_enter, s_uring, 0, w_uring, a_uring, 1, E, 1, rd, 0, 1, GETEV, &none, 8) \
X(io_uring_enter_timeout, io_uring_enter, s_uring, 0, w_uring, a_uring, 1, E, 0, rd, 0, 1, GETEV | IORING_ENTER_EXT_ARG, &uring_timeout, sizeof(uring_timeout)) \
X(io_uring_sync_cancel, io_uring_register, s_cancel, b_cancel, w_fuse, a_cancel, 1, E, 0, rd, IORING_REGISTER_SYNC_CANCEL, &cancel, 1) \
X(recv_rcvtimeo, recvfrom, s_sock_to, 0, w_one, 0, 1, E, 0, rd, buf, 8, 0, 0, 0) \
X(recv_dgram_rcvtimeo, recvfrom, s_dgram_to, 0, w_one, 0, 1, E, 0, rd, buf, 8, 0, 0, 0) \
X(recv_tcp_rcvtimeo, recvfrom, s_tcp_to, 0, w_one, 0, 1, E, 0, rd, buf, 8, 0, 0, 0) \
X(recv_udp_rcvtimeo, recvfrom, s_udp_to, 0, w_one, 0, 1, E, 0, rd, buf, 8, 0, 0, 0) \
X(recv_netlink_rcvtimeo, recvfrom, s_netlink_to, 0, 0, 0, 1, E, 0, rd, buf, 8, 0, 0, 0) \
X(recvfrom_rcvtimeo, recvfrom, s_udp_to, 0, w_one, 0, 1, E, 0, rd, buf, 8, 0, &addr, &addr_len) \
X(recvmsg_rcvtimeo, recvmsg, s_sock_to, 0, w_one, a_drain, 1, E, 0, rd, &mm.msg_hdr, 0) \
X(recvmmsg_rcvtimeo, recvmmsg, s_seq_to, 0, w_one, 0, 1, E, 0, rd, &mm, 1, 0, 0) \
X(read_rcvtimeo, read, s_sock_to, 0, w_one, a_drain, 1, E, 0, rd, buf, 8) \
X(readv_rcvtimeo, readv, s_sock_to, 0, w_one, a_drain, 1, E, 0, rd, &iov, 1) \
X(preadv2_rcvtimeo, preadv2, s_sock_to, 0, w_one, a_drain, 1, E, 0, rd, &iov, 1, -1, -1, 0) \
X(splice_rcvtimeo, splice, s_splice_to, 0, w_one, 0, 1, E, 0, rd, 0, aux, 0, 1, 0) \
X(splice_tcp_rcvtimeo, splice, s_splice_tcp, 0, w_one, 0, 1, E, 0, rd, 0, aux, 0, 1, 0) \
X64(accept_rcvtimeo, accept, s_accept_to, 0, w_connect, a_close, 1, E, 0, rd, 0, 0) \
X64(accept_tcp_rcvtimeo, accept, s_accept_tcp_to, 0, w_connect, a_close, 1, E, 0, rd, 0, 0) \
X(accept4_rcvtimeo, accept4, s_accept_to, 0, w_connect, a_close, 1, E, 0, rd, 0, 0, SOCK_CLOEXEC) \
X(connect_sndtimeo, connect, s_connect, b_connect_to, w_accept, 0, 1, E, 0, wr, SOCKADDR) \
X(connect_tcp_sndtimeo, connect, s_connect_tcp, b_connect_to, 0, 0, 1, E, 0, wr, SOCKADDR) \
X(send_sndtimeo, sendto, s_full_to, 0, w_drain, 0, 1, E, 0, rd, buf, 4096, 0, 0, 0) \
X(sendto_sndtimeo, sendto, s_dgram_full_to, 0, w_drain, 0, 1, E, 0, rd, buf, 1, 0, 0, 0) \
X(sendmsg_sndtimeo, sendmsg, s_full_to, 0, w_drain, 0, 1, E, 0, rd, &mm.msg_hdr, 0) \
X(sendmmsg_sndtimeo, sendmmsg, s_full_to, 0, w_drain, 0, 1, E, 0, rd, &mm, 1, 0) \
X(write_sndtimeo, write, s_full_to, 0, w_drain, 0, 1, E, 0, rd, buf, 4096) \
X(writev_sndtimeo, writev, s_full_to, 0, w_drain, 0, 1, E, 0, rd, &iov, 1) \
X(pwritev2_sndtimeo, pwritev2, s_full_to, 0, w_drain, 0, 1, E, 0, rd, &iov, 1, -1, -1, 0) \
X(sendfile_sndtimeo, sendfile, s_sendfile_to, 0, w_drain, 0, 1, E, 0, rd, aux, 0, 4096) \
XOLD64(select_ro, select, s_event_ro, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, ro_timeout) \
X(pselect6_ro, pselect6, s_event_ro, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, ro_timeout, 0) \
X(pselect6_ro_mask, pselect6, s_event_ro, 0, w_one, a_fds, 1, E, 1, rd + 1, &fds, 0, 0, ro_timeout, &none_arg) \
X(ppoll_ro, ppoll, s_event_ro, 0, w_one, a_drain, 1, E, 0, &pfd, 1, ro_timeout, 0, 8) \
X(ppoll_ro_mask, ppoll, s_event_ro, 0, w_one, a_drain, 1, E, 1, &pfd, 1, ro_timeout, &none, 8) \
XOLD64(select_sticky, select, s_event_sticky, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, &hour) \
X(pselect6_sticky, pselect6, s_event_sticky, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, &hour, 0) \
X(ppoll_sticky, ppoll, s_event_sticky, 0, w_one, a_drain, 1, E, 0, &pfd, 1, &hour, 0, 8) \
XOLD(fuse_open, open, s_fuse_lookup, 0, w_fuse, a_close, 1, E, 0, path, O_RDONLY) \
XOLD(fuse_open_late, open, s_fuse_open, 0, w_fuse, a_close, 1, E, 0, path, O_RDONLY) \
X(fuse_openat, openat, s_fuse_lookup, 0, w_fuse, a_close, 1, E, 0, AT_FDCWD, path, O_RDONLY) \
XOLD(fuse_stat, stat, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, buf) \
XOLD(fuse_lstat, lstat, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, buf) \
X(fuse_fstat, fstat, s_fuse_getattr, 0, w_fuse, 0, 1, E, 0, rd, buf) \
X64(fuse_newfstatat, newfstatat, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, buf, 0) \
X(fuse_statx, statx, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, 0, STATX_BASIC_STATS, buf) \
XOLD(fuse_access, access, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, R_OK) \
X(fuse_faccessat, faccessat, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, R_OK) \
X(fuse_faccessat2, faccessat2, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, R_OK, 0) \
XOLD(fuse_readlink, readlink, s_fuse_lookup, 0, 0, 0, 1, E, 0, path, buf, 64) \
X(fuse_readlinkat, readlinkat, s_fuse_lookup, 0, 0, 0, 1, E, 0, AT_FDCWD, path, buf, 64) \
X(fuse_statfs, statfs, s_fuse_statfs, 0, w_fuse, 0, 1, E, 0, FUSE_AT, buf) \
X(fuse_fstatfs, fstatfs, s_fuse_statfs, 0, w_fuse, 0, 1, E, 0, rd, buf) \
XOLD(fuse_getdents, getdents, s_fuse_readdir, 0, w_fuse, 0, 1, E, 0, rd, buf, 4096) \
X(fuse_getdents64, getdents64, s_fuse_readdir, 0, w_fuse, 0, 1, E, 0, rd, buf, 4096) \
X(fuse_getxattr, getxattr, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, "user.x", 0, 0) \
X(fuse_lgetxattr, lgetxattr, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, "user.x", 0, 0) \
X(fuse_fgetxattr, fgetxattr, s_fuse_getxattr, 0, w_fuse, 0, 1, E, 0, rd, "user.x", 0, 0) \
X(fuse_listxattr, listxattr, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, 0, 0) \
X(fuse_llistxattr, llistxattr, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, 0, 0) \
X(fuse_flistxattr, flistxattr, s_fuse_listxattr, 0, w_fuse, 0, 1, E, 0, rd, 0, 0) \
X(fuse_chdir, chdir, s_fuse_lookup, 0, 0, 0, 1, E, 0, path) \
X(fuse_chroot, chroot, s_fuse_lookup, 0, 0, 0, 1, E, 0, path) \
X(fuse_fchdir, fchdir, s_fuse_access, 0, w_fuse, 0, 1, E, 0, rd) \
X(fuse_inotify_add_watch, inotify_add_watch, s_fuse_inotify, 0, w_fuse, 0, 1, E, 0, rd, path, IN_MODIFY) \
X64(fuse_fanotify_mark, fanotify_mark, s_fuse_fanotify, 0, w_fuse, 0, 1, E, 0, rd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, path) \
X32(fuse_fanotify_mark, fanotify_mark, s_fuse_fanotify, 0, w_fuse, 0, 1, E, 0, rd, FAN_MARK_ADD, FAN_OPEN, 0, AT_FDCWD, path) \
X(fuse_name_to_handle_at, name_to_handle_at, s_fuse_lookup, b_handle, w_fuse, 0, 1, E, 0, AT_FDCWD, path, &handle, &mount_id, 0) \
X(fuse_open_by_handle_at, open_by_handle_at, s_fuse_handle, 0, w_fuse, a_close, 1, E, 0, rd, &handle, O_RDONLY) \
X(fuse_open_tree, open_tree, s_fuse_lookup, 0, w_fuse, a_close, 1, E, 0, AT_FDCWD, path, 0) \
X(fuse_getxattrat, getxattrat, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, 0, "user.x", &xattr_args, sizeof(xattr_args)) \
X(fuse_listxattrat, listxattrat, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, 0, 0, 0) \
X(fuse_file_getattr, file_getattr, s_fuse_lookup, 0, 0, 0, 1, E, 0, AT_FDCWD, path, buf, 24, 0) \
X(fuse_getlk, fcntl, s_fuse_getlk, 0, w_fuse, a_getlk, 1, E, 0, rd, F_GETLK, &whole) \
X32(fuse_getlk64, fcntl64, s_fuse_getlk, 0, w_fuse, a_getlk64, 1, E, 0, rd, F_GETLK64, &whole64) \
X(fuse_msync, msync, s_fuse_msync, 0, w_fuse, 0, 1, E, 0, mapped, 4096, MS_SYNC) \
X(fuse_execve, execve, s_fuse_lookup, 0, 0, 0, 1, E, 0, path, 0, 0) \
X(fuse_execveat, execveat, s_fuse_lookup, 0, 0, 0, 1, E, 0, AT_FDCWD, path, 0, 0, 0) \
X(fuse_read, read, s_fuse_read, 0, w_fuse, 0, 1, E, 0, rd, buf, 1) \
X64(fuse_pread64, pread64, s_fuse_read, 0, w_fuse, 0, 1, E, 0, rd, buf, 1, 0) \
X32(fuse_pread64, pread64, s_fuse_read, 0, w_fuse, 0, 1, E, 0, rd, buf, 1, 0, 0) \
X(fuse_preadv, preadv, s_fuse_read, 0, w_fuse, 0, 1, E, 0, rd, &iov, 1, 0, 0) \
X64(fuse_pwrite64, pwrite64, s_fuse_write, 0, w_fuse, 0, 1, E, 0, rd, buf, 1, 0) \
X32(fuse_pwrite64, pwrite64, s_fuse_write, 0, w_fuse, 0, 1, E, 0, rd, buf, 1, 0, 0) \
X(fuse_pwritev, pwritev, s_fuse_write, 0, w_fuse, 0, 1, E, 0, rd, &iov, 1, 0, 0) \
X(fuse_fsync, fsync, s_fuse_fsync, 0, w_fuse, 0, 1, E, 0, rd) \
X(fuse_fdatasync, fdatasync, s_fuse_fsync, 0, w_fuse, 0, 1, E, 0, rd) \
X(fuse_lseek, lseek, s_fuse_lseek, 0, w_fuse, 0, 1, E, 0, rd, 0, SEEK_DATA) \
X64(fuse_fallocate, fallocate, s_fuse_fallocate, 0, w_fuse, 0, 1, E, 0, rd, 0, 0, 4096) \
X32(fuse_fallocate, fallocate, s_fuse_fallocate, 0, w_fuse, 0, 1, E, 0, rd, 0, 0, 0, 4096, 0) \
X(fuse_copy_file_range, copy_file_range, s_fuse_copy, 0, w_fuse, a_copy, 1, E, 0, rd, &fuse_from, aux, &fuse_to, 1, 0) \
X(nanosleep, nanosleep, s_none, 0, 0, 0, 0, E, 0, &hour, 0) \
X(clock_nanosleep, clock_nanosleep, s_none, 0, 0, 0, 0, E, 0, CLOCK_MONOTONIC, 0, &hour, 0) \
X(clock_nanosleep_abs, clock_nanosleep, s_none, 0, 0, 0, 0, E, 0, CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, 0) \
XOLD(poll, poll, s_event, 0, w_one, a_drain, 0, E, 0, &pfd, 1, 3600000) \
X(ppoll, ppoll, s_event, 0, w_one, a_drain, 0, E, 0, &pfd, 1, 0, 0, 8) \
X(ppoll_mask, ppoll, s_event, 0, w_one, a_drain, 0, E, 1, &pfd, 1, 0, &none, 8) \
XOLD64(select, select, s_event, 0, w_one, a_fds, 0, E, 0, rd + 1, &fds, 0, 0, 0) \
X(pselect6, pselect6, s_event, 0, w_one, a_fds, 0, E, 0, rd + 1, &fds, 0, 0, 0, 0) \
X(pselect6_mask, pselect6, s_event, 0, w_one, a_fds, 0, E, 1, rd + 1, &fds, 0, 0, 0, &none_arg) \
XOLD(pause, pause, s_none, 0, 0, 0, 0, E, 0, 0) \
X(rt_sigsuspend_mask, rt_sigsuspend, s_none, 0, 0, 0, 0, E, 1, &usr2, 8) \
X(futex_wait, futex, s_none, 0, w_futex, 0, 0, F, 0, &word, FUTEX_WAIT, 0, 0) \
X(futex_wait_timeout, futex, s_none, 0, w_futex, 0, 0, E, 0, &word, FUTEX_WAIT, 0, &hour) \
X(futex_wait_bitset, futex, s_none, 0, w_futex, 0, 0, E, 0, &word, FUTEX_WAIT_BITSET, 0, &deadline, 0, -1) \
X(futex_waitv, futex_waitv, s_futex, 0, w_futex, 0, 0, F, 0, &waitv, 1, 0, &deadline64, CLOCK_MONOTONIC) \
X(futex_lock_pi, futex, s_pi, 0, w_pi, a_pi, 0, N, 0, &word, FUTEX_LOCK_PI, 0, &real_deadline) \
X(futex_wait_requeue_pi, futex, s_none, 0, w_requeue, a_requeue, 0, N, 0, &word, FUTEX_WAIT_REQUEUE_PI, 0, &deadline, &word2, 0) \
X(read_pipe, read, s_pipe, 0, w_one, a_drain, 0, F, 0, rd, buf, 8) \
X(write_pipe, write, s_pipe_full, 0, w_pipe_drain, 0, 0, F, 0, wr, buf, 1) \
X(open_fifo, openat, s_fifo, 0, w_fifo, a_close, 0, F, 0, AT_FDCWD, path, O_RDONLY) \
X(splice_pipe, splice, s_pipe, 0, w_one, a_drain, 0, F, 0, rd, 0, aux, 0, 1, 0) \
X(tee, tee, s_pipe, 0, w_one, a_drain, 0, F, 0, rd, aux, 1, 0) \
X(vmsplice, vmsplice, s_pipe_full, 0, w_pipe_drain, 0, 0, F, 0, wr, &iov, 1, 0) \
X(read_eventfd, read, s_event, 0, w_one, 0, 0, F, 0, rd, buf, 8) \
X(write_eventfd, write, s_event_full, 0, w_event_drain, 0, 0, F, 0, wr, buf, 8) \
X(read_timerfd, read, s_timerfd, 0, 0, 0, 0, F, 0, rd, buf, 8) \
X(read_signalfd, read, s_signalfd, 0, w_usr2, 0, 0, F, 0, rd, buf, 128) \
X(read_inotify, read, s_inotify, 0, w_one, 0, 0, F, 0, rd, buf, 4096) \
X(read_fanotify, read, s_fanotify, 0, 0, 0, 0, F, 0, rd, buf, 4096) \
X(read_userfaultfd, read, s_uffd, 0, 0, 0, 0, F, 0, rd, buf, sizeof(struct uffd_msg)) \
X(read_tty, read, s_tty, 0, w_one, 0, 0, F, 0, rd, buf, 64) \
X(write_tty, write, s_tty_full, 0, w_drain, 0, 0, F, 0, rd, buf, 4096) \
X(wait4, wait4, s_child, 0, w_child, a_child, 0, F, 0, -1, 0, 0, 0) \
X(waitid, waitid, s_child, 0, w_child, a_child, 0, F, 0, P_ALL, 0, 0, WEXITED, 0) \
X(flock, flock, s_flock, 0, w_flock, a_flock, 0, F, 0, rd, LOCK_EX) \
X(fcntl_setlkw, fcntl, s_posix, 0, w_child, a_posix, 0, F, 0, wr, F_SETLKW, &whole) \
X64(fcntl_ofd_setlkw, fcntl, s_ofd, 0, 0, 0, 0, F, 0, rd, F_OFD_SETLKW, &whole64) \
X(msgrcv, msgrcv, s_msg, 0, w_msgsnd, 0, 0, E, 0, ipc, &msg, 1024, 0, 0) \
X(msgsnd, msgsnd, s_msg_full, 0, w_msgrcv, 0, 0, E, 0, ipc, &msg, 1024, 0) \
X(mq_timedreceive, mq_timedreceive, s_mq, 0, w_mq_send, 0, 0, F, 0, rd, buf, 8, 0, &real_deadline) \
X(mq_timedsend, mq_timedsend, s_mq_full, 0, w_mq_receive, 0, 0, F, 0, rd, buf, 1, 0, &real_deadline) \
X(recv, recvfrom, s_sock, 0, w_one, 0, 0, F, 0, rd, buf, 8, 0, 0, 0) \
X(recvmmsg_timeout, recvmmsg, s_sock, 0, w_one, a_drain, 0, F, 0, rd, &mm, 1, 0, &hour) \
X(send, sendto, s_full, 0, w_drain, 0, 0, F, 0, rd, buf, 4096, 0, 0, 0) \
X64(accept, accept, s_accept, 0, w_connect, a_close, 0, F, 0, rd, 0, 0) \
X(connect, connect, s_connect, b_connect, w_accept, 0, 0, F, 0, wr, SOCKADDR) \
X(connect_tcp, connect, s_connect_tcp, b_connect, 0, 0, 0, F, 0, wr, SOCKADDR) \
X32(semop, ipc, s_sem, 0, w_sem, 0, 1, E, 0, IPC_SEMOP, ipc, 1, 0, &take) \
X32(semtimedop, ipc, s_sem, 0, w_sem, 0, 1, E, 0, IPC_SEMTIMEDOP, ipc, 1, 0, &take, &hour) \
X32(semtimedop_time64, semtimedop_time64, s_sem, 0, w_sem, 0, 1, E, 0, ipc, &take, 1, &hour64) \
X32(ipc_msgsnd, ipc, s_msg_full, 0, w_msgrcv, 0, 0, E, 0, IPC_MSGSND, ipc, 1024, 0, &msg) \
X32(ipc_msgrcv, ipc, s_msg, 0, w_msgsnd, 0, 0, E, 0, IPC_MSGRCV, ipc, 1024, 0, &msg, 0) \
X32(rt_sigtimedwait_time64, rt_sigtimedwait_time64, s_none, 0, w_usr2, 0, 1, E, 0, &usr2, 0, &hour64, 8) \
X32(io_pgetevents_time64, io_pgetevents_time64, s_aio, 0, w_aio, 0, 0, E, 0, aio, 1, 1, &aio_event, &hour64, 0) \
X32(recvmmsg_time64, recvmmsg_time64, s_seq_to, 0, w_one, 0, 1, E, 0, rd, &mm, 1, 0, 0) \
X32(socketcall_recv, socketcall, s_sock_to, 0, w_one, 0, 1, E, 0, SOCKET(SYS_RECV, rd, buf, 8, 0)) \
X32(socketcall_recvfrom, socketcall, s_udp_to, 0, w_one, 0, 1, E, 0, SOCKET(SYS_RECVFROM, rd, buf, 8, 0, &addr, &addr_len)) \
X32(socketcall_recvmsg, socketcall, s_sock_to, 0, w_one, a_drain, 1, E, 0, SOCKET(SYS_RECVMSG, rd, &mm.msg_hdr, 0)) \
X32(socketcall_recvmmsg, socketcall, s_seq_to, 0, w_one, 0, 1, E, 0, SOCKET(SYS_RECVMMSG, rd, &mm, 1, 0, 0)) \
X32(socketcall_send, socketcall, s_full_to, 0, w_drain, 0, 1, E, 0, SOCKET(SYS_SEND, rd, buf, 4096, 0)) \
X32(socketcall_sendto, socketcall, s_dgram_full_to, 0, w_drain, 0, 1, E, 0, SOCKET(SYS_SENDTO, rd, buf, 1, 0, 0, 0)) \
X32(socketcall_sendmsg, socketcall, s_full_to, 0, w_drain, 0, 1, E, 0, SOCKET(SYS_SENDMSG, rd, &mm.msg_hdr, 0)) \
X32(socketcall_sendmmsg, socketcall, s_full_to, 0, w_drain, 0, 1, E, 0, SOCKET(SYS_SENDMMSG, rd, &mm, 1, 0)) \
X32(socketcall_connect, socketcall, s_connect, b_connect_to, w_accept, 0, 1, E, 0, SOCKET(SYS_CONNECT, wr, SOCKADDR)) \
X32(socketcall_connect_tcp, socketcall, s_connect_tcp, b_connect_to, 0, 0, 1, E, 0, SOCKET(SYS_CONNECT, wr, SOCKADDR)) \
X32(socketcall_accept, socketcall, s_accept_to, 0, w_connect, a_close, 1, E, 0, SOCKET(SYS_ACCEPT, rd, 0, 0)) \
X32(socketcall_accept_tcp, socketcall, s_accept_tcp_to, 0, w_connect, a_close, 1, E, 0, SOCKET(SYS_ACCEPT, rd, 0, 0)) \
X32(socketcall_accept_untimed, socketcall, s_accept, 0, w_connect, a_close, 0, F, 0, SOCKET(SYS_ACCEPT, rd, 0, 0)) \
X32(socketcall_accept4, socketcall, s_accept_to, 0, w_connect, a_close, 1, E, 0, SOCKET(SYS_ACCEPT4, rd, 0, 0, SOCK_CLOEXEC)) \
X32(socketcall_recv_untimed, socketcall, s_sock, 0, w_one, 0, 0, F, 0, SOCKET(SYS_RECV, rd, buf, 8, 0)) \
X32(sendfile64_sndtimeo, sendfile64, s_sendfile_to, 0, w_drain, 0, 1, E, 0, rd, aux, 0, 4096) \
X32(clock_nanosleep_time64, clock_nanosleep_time64, s_none, 0, 0, 0, 0, E, 0, CLOCK_MONOTONIC, 0, &hour64, 0) \
X32(ppoll_time64, ppoll_time64, s_event, 0, w_one, a_drain, 0, E, 0, &pfd, 1, &hour64, 0, 8) \
X32(newselect, _newselect, s_event, 0, w_one, a_fds, 0, E, 0, rd + 1, &fds, 0, 0, 0) \
X32(oldselect_ro, select, s_event_ro, 0, w_one, a_fds, 1, E, 0, ((long[]){rd + 1, (long)&fds, 0, 0, (long)ro_timeout})) \
X32(newselect_ro, _newselect, s_event_ro, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, ro_timeout) \
X32(newselect_sticky, _newselect, s_event_sticky, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, &hour) \
X32(pselect6_time64_ro, pselect6_time64, s_event_ro, 0, w_one, a_fds, 1, E, 0, rd + 1, &fds, 0, 0, ro_timeout, 0) \
X32(ppoll_time64_ro, ppoll_time64, s_event_ro, 0, w_one, a_drain, 1, E, 0, &pfd, 1, ro_timeout, 0, 8) \
X32(fuse_stat64, stat64, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, buf) \
X32(fuse_lstat64, lstat64, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, path, buf) \
X32(fuse_fstat64, fstat64, s_fuse_getattr, 0, w_fuse, 0, 1, E, 0, rd, buf) \
X32(fuse_fstatat64, fstatat64, s_fuse_lookup, 0, w_fuse, 0, 1, E, 0, AT_FDCWD, path, buf, 0) \
X32(fuse_statfs64, statfs64, s_fuse_statfs, 0, w_fuse, 0, 1, E, 0, FUSE_AT, 84, buf) \
X32(fuse_fstatfs64, fstatfs64, s_fuse_statfs, 0, w_fuse, 0, 1, E, 0, rd, 84, buf) \
X32(fuse_llseek, _llseek, s_fuse_lseek, 0, w_fuse, 0, 1, E, 0, rd, 0, 0, buf, SEEK_DATA) \
X32(pselect6_time64, pselect6_time64, s_event, 0, w_one, a_fds, 0, E, 0, rd + 1, &fds, 0, 0, 0, 0) \
X32(sigsuspend, sigsuspend, s_none, 0, 0, 0, 0, E, 1, 0, 0, (long)usr2) \
X32(futex_time64, futex_time64, s_none, 0, w_futex, 0, 0, E, 0, &word, FUTEX_WAIT, 0, &hour64) \
X32(waitpid, waitpid, s_child, 0, w_child, a_child, 0, F, 0, -1, 0, 0) \
X32(fcntl64_ofd_setlkw, fcntl64, s_ofd, 0, 0, 0, 0, F, 0, rd, F_OFD_SETLKW, &whole64) \
X32(mq_timedreceive_time64, mq_timedreceive_time64, s_mq, 0, w_mq_send, 0, 0, F, 0, rd, buf, 8, 0, &real_deadline64) \
X32(mq_timedsend_time64, mq_timedsend_time64, s_mq_full, 0, w_mq_receive, 0, 0, F, 0, rd, buf, 1, 0, &real_deadline64)

#define X(name, nr, s, b, w, a, rep, h, m, ...) \
	static long call_##name(void) { return RAW(SYS_##nr, __VA_ARGS__); }
CASES
#undef X

enum { E, F, N };
static const struct call {
	const char *name;
	int nr;
	void (*setup)(void), (*before)(void), (*wake)(void), (*after)(long);
	int repair, handler, mask;
	long (*call)(void);
} table[] = {
#define X(name, nr, s, b, w, a, rep, h, m, ...) \
	{#name, SYS_##nr, s, b, w, a, rep, h, m, call_##name},
CASES
#undef X
}, *self;

static void classify(long r)
{
	if (r >= 0) {
		ok++;
	} else if (r != -EINTR) {
		last_errno = -r;
		other++;
	} else if (hit) {
		genuine++;
	} else {
		spurious++;
	}
}

static void *worker(void *arg)
{
	if (!self->mask)
		syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &usr1, NULL, 8);
	worker_tid = syscall(SYS_gettid);
	for (;;) {
		long r;

		if (self->before)
			self->before();
		hit = 0;
		calls++;
		r = self->call();
		classify(r);
		if (r >= 0 && self->after)
			self->after(r);
		if (r < 0 && r != -EINTR)
			usleep(1000);
	}
	return arg;
}

static int read_task(const char *file, char *to, size_t size)
{
	char name[64];
	FILE *f;
	size_t n;

	snprintf(name, sizeof(name), "/proc/self/task/%d/%s", worker_tid, file);
	f = fopen(name, "re");
	n = f ? fread(to, 1, size - 1, f) : 0;
	to[n] = 0;
	if (f)
		fclose(f);
	return n > 0;
}

static int asleep(void)
{
	char stat[512], *state;

	state = read_task("stat", stat, sizeof(stat)) ? strrchr(stat, ')') : NULL;
	return state && state[2] == 'S';
}

/* It sleeps in the call, and still sleeps: after a stop, the file shows the call's number too. */
static int inside(void)
{
	char line[256];
	int nr;

	if (!asleep() || !read_task("syscall", line, sizeof(line)) || !asleep())
		return 0;
	if (fuse_has_parked && !*fuse_has_parked)
		return 0;
	return sscanf(line, "%d", &nr) == 1 && (nr == self->nr || nr == SYS_restart_syscall);
}

static int all_handled(void) { return handled == sent; }
static int succeeded(void) { return ok > ok_before; }

static const char *within_5s(int (*cond)(void))
{
	int i;

	for (i = 0; i < 25000; i++) {
		if (cond())
			return "true";
		usleep(200);
	}
	return "false";
}

static const char *wake(void)
{
	if (!self->wake)
		return "false";
	ok_before = ok;
	self->wake();
	return within_5s(succeeded);
}

static void serve(void)
{
	char line[64];

	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "quit"))
			break;
		if (!strcmp(line, "counts")) {
			printf("{\"calls\": %ld, \"ok\": %ld, \"genuine\": %ld, \"spurious\": %ld, "
			       "\"other\": %ld, \"errno\": %ld, \"handled\": %ld, \"restarted\": %ld, "
			       "\"outside\": %ld}\n", calls, ok, genuine, spurious, other, last_errno,
			       handled, restarted, outside);
		} else if (!strcmp(line, "blocked")) {
			printf("{\"blocked\": %s}\n", within_5s(inside));
		} else if (!strcmp(line, "signal")) {
			MUST(syscall(SYS_tgkill, getpid(), worker_tid, SIGUSR1));
			printf("{\"sent\": %ld}\n", ++sent);
		} else if (!strcmp(line, "wake")) {
			printf("{\"woken\": %s}\n", wake());
		} else if (!strcmp(line, "handled")) {
			printf("{\"handled\": %s}\n", within_5s(all_handled));
		} else {
			printf("{\"error\": \"unknown command\"}\n");
		}
		fflush(stdout);
	}
}

static void start(int restart)
{
	static const char *const handler[] = {"eintr", "flag", "never"};
	struct sigaction sa = {.sa_sigaction = on_usr1, .sa_flags = SA_SIGINFO | (restart ? SA_RESTART : 0)};
	uint64_t both = usr1 | usr2;
	pthread_t t;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* In their own namespace, IPC objects die with the process, however it ends. */
	if (unshare(CLONE_NEWIPC))
		perror("unshare");
	clock_gettime(CLOCK_MONOTONIC, &deadline);
	clock_gettime(CLOCK_REALTIME, &real_deadline);
	deadline.tv_sec += 3600, real_deadline.tv_sec += 3600;
	deadline64.tv_sec = deadline.tv_sec, real_deadline64.tv_sec = real_deadline.tv_sec;
	main_tid = getpid();
	MUST(sigaction(SIGUSR1, &sa, NULL));
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, &both, NULL, 8);
	self->setup();
	if (pthread_create(&t, NULL, worker, NULL))
		exit(2);
	while (!worker_tid)
		sched_yield();
	printf("{\"pid\": %d, \"tid\": %d, \"call\": \"%s\", \"nr\": %d, \"repair\": %s, \"handler\": \"%s\", "
	       "\"wake\": %s}\n", getpid(), worker_tid, self->name, self->nr, self->repair ? "true" : "false",
	       handler[self->handler], self->wake ? "true" : "false");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	size_t i, n = sizeof(table) / sizeof(*table);

	for (i = 0; argc > 1 && i < n; i++) {
		if (!strcmp(argv[1], "--list"))
			puts(table[i].name);
		else if (!strcmp(argv[1], table[i].name))
			self = &table[i];
	}
	if (argc > 1 && !strcmp(argv[1], "--list"))
		return 0;
	if (!self) {
		fprintf(stderr, "usage: eintr --list | CALL [--restart]\n");
		return 2;
	}
	start(argc > 2 && !strcmp(argv[2], "--restart"));
	serve();
	exit(0);
}
