/*
 * bulk MEBIBYTES: a process with so much written memory in 4 KiB pages, and a thread that watches
 * the clock.  Prints {"pid": P}.  Answers each line on stdin with {"gap": NANOSECONDS}: the longest
 * time since the last line in which that thread did not run, that is, how long the process itself
 * saw that it stood still.
 */
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

static atomic_long longest, looks;

static long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void *watch(void *argument)
{
	struct timespec nap = {0, 100000};
	long before = now();

	for (;;) {
		nanosleep(&nap, NULL);
		long t = now();
		if (t - before > atomic_load(&longest))
			atomic_store(&longest, t - before);
		before = t;
		atomic_fetch_add(&looks, 1);
	}
	return argument;
}

int main(int argc, char **argv)
{
	size_t size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 0) << 20;
	pthread_t thread;
	char buf[64];
	char *memory;

	target_init();
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || madvise(memory, size, MADV_NOHUGEPAGE))
		die("mmap");
	for (size_t i = 0; i < size; i += 8)
		*(uint64_t *)(memory + i) = canary(i);
	if (pthread_create(&thread, NULL, watch, NULL))
		die("pthread_create");
	printf("{\"pid\": %d, \"start\": \"%p\", \"size\": %zu}\n", getpid(), (void *)memory, size);
	while (next_command(buf, sizeof(buf))) {
		/* A gap that has just ended is known only when the thread has looked again. */
		for (long seen = atomic_load(&looks); atomic_load(&looks) < seen + 2;)
			usleep(100);
		printf("{\"gap\": %ld}\n", atomic_exchange(&longest, 0));
	}
	return 0;
}
