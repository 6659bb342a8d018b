/*
 * bulk MEBIBYTES [huge]: a process with so much written memory in 4 KiB pages, or in huge pages, and
 * a thread that watches the clock.  Prints {"pid": P}.  Answers each line on stdin with
 * {"gap": NANOSECONDS, "written": N}.  gap: the longest time since the last line in which that
 * thread did not run, that is, how long the process itself saw that it stood still.
 *
 * "rate N": from now on another thread writes a word into N random pages in each second, or, if N is
 * negative, into one page after the other as fast as it can.  written: how many since the last line.
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

static atomic_long rate, written;
static char *memory;
static size_t size;

static void *write_on(void *argument)
{
	struct timespec nap = {0, 1000000};
	uint64_t seed = 1, done = 0;
	size_t page = 0;

	for (long begin = now(), wanted = 0;;) {
		long pages = atomic_load(&rate);

		if (pages >= 0) {
			nanosleep(&nap, NULL);
			if (!pages)
				begin = now(), wanted = 0;
			pages = (long)((double)(now() - begin) * 1e-9 * (double)pages) - wanted;
			wanted += pages;
		} else
			pages = 64;
		for (; pages > 0; pages--) {
			seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
			page = atomic_load(&rate) < 0 ? page + 4096 : (seed >> 20) * 4096;
			*(volatile uint64_t *)(memory + page % size + 8) = ++done;
			atomic_fetch_add(&written, 1);
		}
	}
	return argument;
}

int main(int argc, char **argv)
{
	int advice = argc > 2 && !strcmp(argv[2], "huge") ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
	size = (argc > 1 ? strtoul(argv[1], NULL, 10) : 0) << 20;
	pthread_t thread;
	char buf[64];
	int writes = 0;
	long pages;

	target_init();
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || madvise(memory, size, advice))
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
		if (sscanf(buf, "rate %ld", &pages) == 1) {
			atomic_store(&rate, pages);
			if (!writes++ && pthread_create(&thread, NULL, write_on, NULL))
				die("pthread_create");
		}
		printf("{\"gap\": %ld, \"written\": %ld}\n", atomic_exchange(&longest, 0),
		       atomic_exchange(&written, 0));
	}
	return 0;
}
