/*
 * fallocate
 *
 * A worker allocates all huge pages of a file and frees them, again and again.  The call never
 * sleeps long, and a signal can end it half-way (fallocate(2), EINTR).
 *
 *   rounds   how many rounds it has done, and how many gave EINTR
 */
#define _GNU_SOURCE
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

#define PAGES 3
#define SIZE  ((off_t)PAGES << 21)

static volatile long rounds, interrupted, failed;

static void *worker(void *arg)
{
	int fd = memfd_create("fallocate", MFD_HUGETLB);

	for (;;) {
		if (!fallocate(fd, 0, 0, SIZE))
			rounds++;
		else if (errno == EINTR)
			interrupted++;
		else
			failed++;
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE);
	}
	return arg;
}

int main(void)
{
	char buf[64];
	const char *command;
	pthread_t thread;

	target_init();
	if (pthread_create(&thread, NULL, worker, NULL))
		die("pthread_create");
	printf("{\"pid\": %d}\n", getpid());
	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "rounds"))
			printf("{\"rounds\": %ld, \"interrupted\": %ld, \"failed\": %ld}\n", rounds, interrupted,
			       failed);
		else
			printf("{\"error\": \"unknown command\"}\n");
	}
	return 0;
}
