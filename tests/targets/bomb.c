/*
 * bomb KIND N: a process that makes more and more threads or children, until it is told to stop.
 *
 *   hop    N threads; each starts the next one and ends, so none lives long
 *   grow   threads that each start two more, up to N, and then stay
 *   fork   N threads that each fork children, which end at once, and wait for them
 *
 * Prints {"pid": P} when it has begun.  Answers "count" with {"made": M}, the number so far, and
 * "end" with {"ended": true}, when no thread makes any more.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

static atomic_long made, alive, planned, errors;
static long limit;
static atomic_int over;
static pthread_attr_t attributes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t is_over = PTHREAD_COND_INITIALIZER;

static void start(void *(*body)(void *))
{
	pthread_t thread;

	atomic_fetch_add(&alive, 1);
	if (pthread_create(&thread, &attributes, body, NULL))
		die("pthread_create");
	atomic_fetch_add(&made, 1);
}

static void *hop(void *argument)
{
	if (!atomic_load(&over))
		start(hop);
	atomic_fetch_sub(&alive, 1);
	return argument;
}

static void *grow(void *argument)
{
	for (int i = 0; i < 2 && !atomic_load(&over) && atomic_fetch_add(&planned, 1) < limit; i++)
		start(grow);
	pthread_mutex_lock(&lock);
	while (!atomic_load(&over))
		pthread_cond_wait(&is_over, &lock);
	pthread_mutex_unlock(&lock);
	atomic_fetch_sub(&alive, 1);
	return argument;
}

static void *fork_on(void *argument)
{
	while (!atomic_load(&over)) {
		int status = 0;
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			atomic_fetch_add(&errors, 1);
		atomic_fetch_add(&made, 1);
	}
	atomic_fetch_sub(&alive, 1);
	return argument;
}

int main(int argc, char **argv)
{
	char buf[64];
	long n = argc > 2 ? atol(argv[2]) : 1;

	if (argc < 2)
		return 2;
	target_init();
	limit = n;
	if (pthread_attr_init(&attributes) ||
	    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) ||
	    pthread_attr_setstacksize(&attributes, 65536))
		die("pthread_attr");
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	if (!strcmp(argv[1], "grow"))
		start(grow);
	for (long i = 0; i < n && strcmp(argv[1], "grow"); i++)
		start(strcmp(argv[1], "hop") ? fork_on : hop);
	while (next_command(buf, sizeof(buf))) {
		if (!strcmp(buf, "count")) {
			printf("{\"made\": %ld, \"errors\": %ld}\n", atomic_load(&made), atomic_load(&errors));
		} else {
			pthread_mutex_lock(&lock);
			atomic_store(&over, 1);
			pthread_cond_broadcast(&is_over);
			pthread_mutex_unlock(&lock);
			while (atomic_load(&alive))
				usleep(1000);
			printf("{\"ended\": true, \"errors\": %ld}\n", atomic_load(&errors));
		}
	}
	atomic_store(&over, 1);
	return 0;
}
