/* Shared by all targets: how a target dies, and how it gets its commands. */
#ifndef TARGET_H
#define TARGET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <inttypes.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

/*
 * A hung test must not leave the target behind.  The signal comes when the
 * *thread* that forked us ends (prctl(2), PR_SET_PDEATHSIG), so a test must
 * start its target from a thread that outlives it.
 */
static inline void target_init(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("prctl");
}

/* The next command without its newline, or NULL at EOF. */
static inline const char *next_command(char *buf, int size)
{
	fflush(stdout);
	if (!fgets(buf, size, stdin))
		return NULL;
	buf[strcspn(buf, "\n")] = '\0';
	return buf;
}

/*
 * Does the thread sleep in system call nr?  The file says "running" while it
 * does not sleep (proc_pid_syscall() in fs/proc/base.c), so a match means that
 * its registers are in the kernel and stay there.
 */
static inline int asleep_in(pid_t tid, long nr)
{
	char path[64];
	long seen = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/syscall", tid);
	f = fopen(path, "re");
	if (!f)
		die(path);
	if (fscanf(f, "%ld", &seen) != 1)
		seen = -1;
	fclose(f);
	return seen == nr;
}

static inline void wait_asleep_in(pid_t tid, long nr)
{
	while (!asleep_in(tid, nr))
		usleep(1000);
}

static inline long futex(uint32_t *word, int op, uint32_t val,
			 const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, timeout,
		       NULL, 0);
}

/* With an odd factor, n -> word is one to one modulo 2^64. */
static inline uint64_t canary(uint64_t n)
{
	return UINT64_C(0x9e3779b97f4a7c15) * (n + 1);
}

#endif
