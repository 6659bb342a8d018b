/*
 * vforker [leader]
 *
 * A thread in vfork(2) sleeps in wait_for_vfork_done() (kernel/fork.c), which
 * only a fatal signal ends: it is in state D, and a ptrace stop waits until the
 * child is released.  It is a separate thread, or the leader.  Command: release.
 */
#include "target.h"

#include <pthread.h>
#include <sys/wait.h>

#define NORMAL 3

static int gate[2]; /* the child reads it until EOF */
static int gone[2]; /* only the child holds the write end: EOF is its exit */
static volatile pid_t vfork_tid, child_pid, tids[NORMAL];

/* The child borrows our memory, so the parent sees what it stores here. */
static void *vforker(void *arg)
{
	char c;
	pid_t pid;

	vfork_tid = gettid();
	pid = vfork();
	if (pid < 0)
		die("vfork");
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Its copy of the write end would prevent EOF. */
		close(gate[1]);
		child_pid = getpid();
		_exit(read(gate[0], &c, 1) != 0);
	}
	if (waitpid(pid, NULL, 0) != pid)
		die("waitpid");
	for (;;)
		pause();
	return arg;
}

static void *normal(void *arg)
{
	*(volatile pid_t *)arg = gettid();
	for (;;)
		pause();
	return NULL;
}

static char state(pid_t tid)
{
	char path[64], c = '?';
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	f = fopen(path, "re");
	if (!f)
		die(path);
	if (fscanf(f, "%*d (%*[^)]) %c", &c) != 1)
		die(path);
	fclose(f);
	return c;
}

/* Does not wait for the parent thread, because a tracer may hold it stopped. */
static void release(void)
{
	char c;

	close(gate[1]);
	if (read(gone[0], &c, 1) != 0)
		die("read");
}

static void *serve(void *arg)
{
	const char *command;
	char buf[64];
	int released = 0;

	while (!child_pid)
		usleep(1000);
	wait_asleep_in(child_pid, SYS_read);
	close(gone[1]);
	while (state(vfork_tid) != 'D')
		usleep(1000);

	printf("{\"pid\": %d, \"vfork_tid\": %d, \"child_pid\": %d, "
	       "\"server_tid\": %d, \"tids\": [%d, %d, %d]}\n", getpid(),
	       vfork_tid, child_pid, gettid(), tids[0], tids[1], tids[2]);

	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "release") && !released) {
			release();
			released = 1;
			printf("{\"released\": true}\n");
		} else {
			printf("{\"released\": false}\n");
		}
	}
	if (!released)
		release();
	exit(0);
	return arg;
}

int main(int argc, char **argv)
{
	int is_leader = argc > 1 && !strcmp(argv[1], "leader");
	pthread_t thread;

	target_init();
	if (pipe(gate) || pipe(gone))
		die("pipe");
	for (int i = 0; i < NORMAL; i++) {
		if (pthread_create(&thread, NULL, normal, (void *)&tids[i]))
			die("pthread_create");
		while (!tids[i])
			usleep(1000);
		wait_asleep_in(tids[i], SYS_pause);
	}
	if (pthread_create(&thread, NULL, is_leader ? serve : vforker, NULL))
		die("pthread_create");
	is_leader ? vforker(NULL) : serve(NULL);
	return 0;
}
