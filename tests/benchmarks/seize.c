/*
 * seize PID: a minimal stop.  SEIZE and INTERRUPT every thread, wait for each, fetch the register
 * sets that a core has of it, DETACH.  Prints how many nanoseconds that took, from before the first
 * seize: {"recorded": until the last record, "released": until the last detach}.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define MOST 100000

static const long sets[] = {NT_PRSTATUS, NT_PRFPREG, NT_386_IOPERM, NT_X86_XSTATE};
static pid_t tids[MOST];
static char buffer[1 << 16];

static _Noreturn void die(const char *what)
{
	perror(what);
	exit(1);
}

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void record(pid_t tid)
{
	int status;

	if (waitpid(tid, &status, __WALL) != tid || !WIFSTOPPED(status))
		die("waitpid");
	for (unsigned int i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
		struct iovec vector = {buffer, sizeof(buffer)};

		/* A thread need not have all of them. */
		if (ptrace(PTRACE_GETREGSET, tid, sets[i], &vector) && i == 0)
			die("GETREGSET");
	}
}

int main(int argc, char **argv)
{
	struct dirent *entry;
	char path[64];
	int count = 0;
	long begin, recorded;
	DIR *dir;

	if (argc != 2)
		return 2;
	begin = now();
	snprintf(path, sizeof(path), "/proc/%d/task", atoi(argv[1]));
	dir = opendir(path);
	if (!dir)
		die(path);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && count < MOST)
			tids[count++] = atoi(entry->d_name);
	for (int i = 0; i < count; i++)
		if (ptrace(PTRACE_SEIZE, tids[i], 0, 0))
			die("SEIZE");
	for (int i = 0; i < count; i++)
		if (ptrace(PTRACE_INTERRUPT, tids[i], 0, 0))
			die("INTERRUPT");
	for (int i = 0; i < count; i++)
		record(tids[i]);
	recorded = now();
	for (int i = 0; i < count; i++)
		if (ptrace(PTRACE_DETACH, tids[i], 0, 0))
			die("DETACH");
	printf("{\"recorded\": %ld, \"released\": %ld}\n", recorded - begin, now() - begin);
	return 0;
}
