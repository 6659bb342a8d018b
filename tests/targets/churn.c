/*
 * churn KIND: a process whose threads never stand still for a tracer.
 *
 *   threads   four spawners each start and join a thread as fast as they can
 *   exec      one of ten threads executes this program again, for ever: the leader is replaced
 *   again     the leader of four threads executes this program again when a line comes, and has no
 *             other thread then
 *   born      for each line one more thread is started, which counts in a word, for ever
 *   leader    the leader calls pthread_exit(3); three threads live on
 *
 * Prints {"pid": P} once, or {"pid": P, "tids": [...]} for leader, or {"pid": P, "address": WORD}
 * for born.  "exec" prints it in its
 * first life only and then ends at EOF of stdin or with its parent.
 */
#include "target.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

static void *nothing(void *argument)
{
	return argument;
}

static void *spawner(void *argument)
{
	pthread_t thread;

	for (;;) {
		if (pthread_create(&thread, NULL, nothing, argument))
			die("pthread_create");
		pthread_join(thread, NULL);
	}
}

static void start(void *(*body)(void *), void *argument)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, argument))
		die("pthread_create");
}

static void *sleep_on(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static void end_with_stdin(void)
{
	char buf[64];

	while (next_command(buf, sizeof(buf)))
		;
	exit(0);
}

static volatile unsigned long counter;

static void *count(void *argument)
{
	for (;;)
		counter++;
	return argument;
}

static void *exec_again(void *argument)
{
	char **argv = argument;
	struct pollfd input = {.fd = 0, .events = POLLIN};

	if (poll(&input, 1, 0) != 0)
		exit(0);
	execv("/proc/self/exe", argv);
	die("execv");
}

static _Atomic pid_t tids[3];

static void *live_on(void *argument)
{
	atomic_store((_Atomic pid_t *)argument, gettid());
	if (argument == (void *)&tids[2]) {
		while (!tids[0] || !tids[1])
			usleep(1000);
		/* The leader is dead when its state is Z. */
		for (;;) {
			char state = 0, path[64];
			snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", getpid(), getpid());
			FILE *f = fopen(path, "re");
			if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
				die(path);
			fclose(f);
			if (state == 'Z')
				break;
			usleep(1000);
		}
		printf("{\"pid\": %d, \"tids\": [%d, %d, %d]}\n", getpid(), tids[0], tids[1],
		       tids[2]);
		end_with_stdin();
	}
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	char *again[] = {argv[0], "exec", "again", NULL};

	target_init();
	if (argc > 1 && !strcmp(argv[1], "threads")) {
		for (int i = 0; i < 4; i++)
			start(spawner, NULL);
		printf("{\"pid\": %d}\n", getpid());
		end_with_stdin();
	}
	if (argc > 1 && !strcmp(argv[1], "born")) {
		char buf[64];

		printf("{\"pid\": %d, \"address\": \"%p\"}\n", getpid(), (void *)&counter);
		while (next_command(buf, sizeof(buf)))
			start(count, NULL);
		exit(0);
	}
	if (argc > 1 && !strcmp(argv[1], "again")) {
		char *alone[] = {argv[0], "again", "alone", NULL};
		char buf[64];

		if (argc == 2) {
			for (int i = 0; i < 3; i++)
				start(sleep_on, NULL);
			printf("{\"pid\": %d}\n", getpid());
			if (next_command(buf, sizeof(buf)))
				execv("/proc/self/exe", alone);
		}
		end_with_stdin();
	}
	if (argc > 1 && !strcmp(argv[1], "exec")) {
		if (argc == 2) {
			printf("{\"pid\": %d}\n", getpid());
			fflush(stdout);
		}
		for (int i = 0; i < 8; i++)
			start(sleep_on, NULL);
		start(exec_again, again);
		sleep_on(NULL);
	}
	if (argc > 1 && !strcmp(argv[1], "leader")) {
		for (int i = 0; i < 3; i++)
			start(live_on, (void *)&tids[i]);
		pthread_exit(NULL);
	}
	return 2;
}
