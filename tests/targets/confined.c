/*
 * confined [CONDITION]
 *
 * Does a little work of each kind under a condition that the process has set for itself:
 *
 *   seccomp      a filter that allows the system calls of this program, and kills for any other
 *   strict       one thread may only read(2) and write(2) (seccomp(2), SECCOMP_SET_MODE_STRICT)
 *   no_new_privs, undumpable, tiny_limits, fifo, idle, nice
 *
 * Reports "changed" if the condition does not hold any more.  See account.h for the commands.
 */
#include "account.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#define WAIT (3 * MS)

static int question[2], answer[2], never[2], epoll_fd;

static void sleeper(struct work *w)
{
	const struct timespec ts = timespec(WAIT);

	while (!ending) {
		int64_t due = now() + WAIT;

		errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
		tally_timed(w, errno ? -1 : 0, 0, now(), due);
	}
}

static void poller(struct work *w)
{
	struct pollfd pfd = { never[0], POLLIN, 0 };

	while (!ending) {
		int64_t due = now() + WAIT;
		long result = poll(&pfd, 1, WAIT / MS);

		tally_timed(w, result, 0, now(), due);
	}
}

static void epoller(struct work *w)
{
	struct epoll_event event;

	while (!ending) {
		int64_t due = now() + WAIT;
		long result = epoll_wait(epoll_fd, &event, 1, WAIT / MS);

		tally_timed(w, result, 0, now(), due);
	}
}

static void waiter(struct work *w)
{
	const struct timespec ts = timespec(WAIT);
	uint32_t word = 0;

	while (!ending) {
		int64_t due = now() + WAIT;
		long result = futex(&word, FUTEX_WAIT, 0, &ts);

		tally_timed(w, result, ETIMEDOUT, now(), due);
	}
}

/* So that a thread with SCHED_FIFO does not starve the others. */
static void rest(void)
{
	poll(NULL, 0, 1);
}

static void computer(struct work *w)
{
	volatile double x = 1;

	while (!ending) {
		x = 1;
		for (int i = 0; i < 100000; i++)
			x = x * 3 + 1;
		/* The result is the same in every run: it overflows. */
		tally(w, x > 1e300 ? "ok" : "wrong");
		rest();
	}
}

static int is_strict;

static void answerer(struct work *w)
{
	char c;

	if (is_strict && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		die("prctl");
	while (read(question[0], &c, 1) == 1) {
		c++;
		tally(w, write(answer[1], &c, 1) == 1 ? "ok" : "not written");
	}
	syscall(SYS_exit, 0);
}

static void asker(struct work *w)
{
	for (char c = 0; !ending; c = (c + 1) % 100) {
		char reply = -1;

		if (write(question[1], &c, 1) != 1 || read(answer[0], &reply, 1) != 1)
			tally(w, strerrorname_np(errno));
		else
			tally(w, reply == c + 1 ? "ok" : "another answer");
		if (c % 16 == 0)
			rest();
	}
	close(question[1]);
}

static int holds_not_dumpable(void)
{
	return prctl(PR_GET_DUMPABLE) == 0;
}

static int holds_no_new_privs(void)
{
	return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
}

static int holds_fifo(void)
{
	return sched_getscheduler(0) == SCHED_FIFO;
}

static int holds_idle(void)
{
	return sched_getscheduler(0) == SCHED_IDLE;
}

static int holds_nice(void)
{
	return getpriority(PRIO_PROCESS, 0) == 19;
}

static int holds_limits(void)
{
	struct rlimit limit;

	return !getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur == 3;
}

static int holds_anything(void)
{
	return 1;
}

static int (*holds)(void) = holds_anything;

static void watcher(struct work *w)
{
	while (!ending) {
		tally(w, holds() ? "ok" : "changed");
		rest();
	}
}

#define WORK(name) { #name, name, 0, 0, 0, 0, {} }

static struct work works[] = {
	WORK(sleeper), WORK(poller), WORK(epoller), WORK(waiter), WORK(computer), WORK(answerer),
	WORK(asker), WORK(watcher),
};

#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), \
		  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* The calls of this program, and of libc at the end of a thread; not restart_syscall(2). */
static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_clock_nanosleep), ALLOW(SYS_poll),
		ALLOW(SYS_epoll_wait), ALLOW(SYS_futex), ALLOW(SYS_close), ALLOW(SYS_exit),
		ALLOW(SYS_exit_group), ALLOW(SYS_rt_sigprocmask), ALLOW(SYS_madvise),
		ALLOW(SYS_munmap),
#ifdef __i386__
		ALLOW(SYS_clock_nanosleep_time64), ALLOW(SYS_futex_time64),
#endif
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program))
		die("seccomp");
}

static void limit_all(void)
{
	static const int tiny[] = {
		RLIMIT_AS, RLIMIT_CORE, RLIMIT_DATA, RLIMIT_FSIZE, RLIMIT_LOCKS, RLIMIT_MEMLOCK,
		RLIMIT_MSGQUEUE, RLIMIT_NPROC, RLIMIT_SIGPENDING, RLIMIT_STACK,
	};
	struct rlimit none = { 0, 0 }, three = { 3, 3 };

	for (size_t i = 0; i < sizeof(tiny) / sizeof(*tiny); i++)
		if (setrlimit(tiny[i], &none))
			die("setrlimit");
	if (setrlimit(RLIMIT_NOFILE, &three))
		die("setrlimit");
}

static void schedule(int policy, int priority)
{
	struct sched_param param = { priority };

	if (sched_setscheduler(0, policy, &param))
		die("sched_setscheduler");
}

/* Threads inherit most of these; a filter is given to all of them, and limits hold for all. */
static void confine(const char *condition, int has_threads)
{
	if (!strcmp(condition, "seccomp") && has_threads)
		filter();
	if (!strcmp(condition, "tiny_limits") && has_threads)
		limit_all(), holds = holds_limits;
	if (has_threads)
		return;
	if (!strcmp(condition, "strict"))
		is_strict = 1;
	if (!strcmp(condition, "no_new_privs"))
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), holds = holds_no_new_privs;
	if (!strcmp(condition, "undumpable"))
		prctl(PR_SET_DUMPABLE, 0), holds = holds_not_dumpable;
	if (!strcmp(condition, "fifo"))
		schedule(SCHED_FIFO, 1), holds = holds_fifo;
	if (!strcmp(condition, "idle"))
		schedule(SCHED_IDLE, 0), holds = holds_idle;
	if (!strcmp(condition, "nice") && nice(19) == 19)
		holds = holds_nice;
}

int main(int argc, char **argv)
{
	const char *condition = argc > 1 ? argv[1] : "";
	int n = sizeof(works) / sizeof(*works);
	static char in[BUFSIZ], out[BUFSIZ];

	target_init();
	/* Otherwise stdio would allocate its buffers when that is no longer allowed. */
	setvbuf(stdin, in, _IOFBF, sizeof(in));
	setvbuf(stdout, out, _IOFBF, sizeof(out));
	epoll_fd = epoll_create1(0);
	if (pipe(question) || pipe(answer) || pipe(never) || epoll_fd < 0)
		die("pipe");
	confine(condition, 0);
	start_works(works, n);
	printf("{\"pid\": %d, \"threads\": %d}\n", getpid(), n);
	confine(condition, 1);
	fflush(stdout);
	serve(works, n);
	return 0;
}
