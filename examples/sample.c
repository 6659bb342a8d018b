/*
 * A small process for a first core: four threads, each asleep in its own chain of calls, and a
 * counter that shows that the process goes on.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long heartbeat;

static void nap(void)
{
	struct timespec tenth = {0, 100000000};

	nanosleep(&tenth, NULL);
}

static void serve_request(int number)
{
	for (;;) {
		nap();
		heartbeat += (unsigned long)number;
	}
}

static void *worker(void *argument)
{
	char name[16];
	int number = (int)(long)argument;

	snprintf(name, sizeof(name), "worker-%d", number);
	pthread_setname_np(pthread_self(), name);
	serve_request(number);
	return NULL;
}

int main(void)
{
	pthread_t thread;

	prctl(PR_SET_NAME, "sample");
	for (long number = 1; number <= 4; number++)
		pthread_create(&thread, NULL, worker, (void *)number);
	for (;;)
		pause();
}
