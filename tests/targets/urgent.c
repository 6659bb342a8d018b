/*
 * urgent POLICY CPU: a thread that runs without pause under a real-time policy, beside a thread that
 * waits for commands under the normal policy.
 *
 *   fifo       SCHED_FIFO, priority 50, on that processor
 *   deadline   SCHED_DEADLINE, 8 of every 10 ms, on any
 *
 * It kills itself after 30 s in any case.  Prints {"pid": P, "tid": T} when that thread runs.
 * Answers each line with {"turns": N}: the number of its rounds.
 */
#include "target.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>

struct attributes { /* sched_setattr(2) */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static atomic_long turns;
static _Atomic pid_t tid;
static int is_fifo, cpu;

static void *spin(void *argument)
{
	struct attributes a = {.size = sizeof(a), .policy = SCHED_FIFO, .priority = 50};

	if (is_fifo) {
		cpu_set_t set;

		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			die("sched_setaffinity");
	} else {
		a = (struct attributes){.size = sizeof(a), .policy = 6 /* SCHED_DEADLINE */};
		a.runtime = 8000000;
		a.deadline = a.period = 10000000;
	}
	if (syscall(SYS_sched_setattr, 0, &a, 0))
		die("sched_setattr");
	atomic_store(&tid, gettid());
	for (;;)
		atomic_fetch_add(&turns, 1);
	return argument;
}

int main(int argc, char **argv)
{
	char buf[64];
	pthread_t thread;

	if (argc < 3)
		return 2;
	target_init();
	alarm(30);
	is_fifo = !strcmp(argv[1], "fifo");
	cpu = atoi(argv[2]);
	if (pthread_create(&thread, NULL, spin, NULL))
		die("pthread_create");
	while (!atomic_load(&tid))
		usleep(1000);
	printf("{\"pid\": %d, \"tid\": %d}\n", getpid(), atomic_load(&tid));
	while (next_command(buf, sizeof(buf)))
		printf("{\"turns\": %ld}\n", atomic_load(&turns));
	return 0;
}
