/*
 * split UID WHAT
 *
 * Two threads with different credentials.  The leader alone changes to UID, by
 * the system calls themselves: those of the C library would change all threads
 * (nptl(7)).  The other is a "thread", or a "poller" of io_uring, which the
 * kernel has made.  Prints its thread ids, and sleeps.
 */
#include "target.h"

#include <linux/io_uring.h>
#include <pthread.h>

static pid_t stays;
static pthread_barrier_t started;

static void *stay(void *unused)
{
	stays = gettid();
	pthread_barrier_wait(&started);
	for (;;)
		pause();
	return unused;
}

static void start(const char *what)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SQPOLL};
	pthread_t thread;

	if (!strcmp(what, "poller")) {
		if (syscall(SYS_io_uring_setup, 4, &params) < 0)
			die("io_uring_setup");
		return;
	}
	pthread_barrier_init(&started, NULL, 2);
	if (pthread_create(&thread, NULL, stay, NULL))
		die("pthread_create");
	pthread_barrier_wait(&started);
	wait_asleep_in(stays, SYS_pause);
}

int main(int argc, char **argv)
{
	unsigned uid;

	if (argc != 3)
		die("split UID WHAT");
	uid = strtoul(argv[1], NULL, 10);
	start(argv[2]);
	if (syscall(SYS_setgroups, 0, NULL) < 0 ||
	    syscall(SYS_setresgid, uid, uid, uid) < 0 ||
	    syscall(SYS_setresuid, uid, uid, uid) < 0)
		die("setresuid");
	/* A change of credentials has made it undumpable (prctl(2)), and cleared
	 * the signal that our death sends. */
	if (prctl(PR_SET_DUMPABLE, 1) < 0)
		die("prctl");
	target_init();
	printf("{\"pid\": %d, \"other\": %d}\n", getpid(), stays);
	for (char line[8]; next_command(line, sizeof(line));)
		;
	return 0;
}
