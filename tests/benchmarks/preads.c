/*
 * preads FILE COUNT SEED: COUNT reads of 4 KiB, each at a random page of FILE; the first read, which
 * waits until the core is ready, is not counted.  Prints {"median": NANOSECONDS, "worst": ...}.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

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

static int compare(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	static char page[PAGE] __attribute__((aligned(PAGE)));
	struct stat status;
	int count, fd;
	long *times;

	if (argc != 4 || (count = atoi(argv[2])) < 1)
		return 2;
	srandom(atoi(argv[3]));
	times = calloc(count, sizeof(*times));
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (!times || fd < 0 || pread(fd, page, 1, 0) != 1 || fstat(fd, &status))
		die(argv[1]);
	for (int i = 0; i < count; i++) {
		off_t offset = random() % (status.st_size / PAGE) * PAGE;
		long begin = now();

		if (pread(fd, page, PAGE, offset) != PAGE)
			die("pread");
		times[i] = now() - begin;
	}
	qsort(times, count, sizeof(*times), compare);
	printf("{\"median\": %ld, \"worst\": %ld}\n", times[count / 2], times[count - 1]);
	return 0;
}
