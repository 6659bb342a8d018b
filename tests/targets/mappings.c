/*
 * mappings N: N one-page mappings that the kernel cannot merge, each written with its own
 * address.  Prints {"pid": P, "start": ADDRESS, "count": N}; page i is at start + 2 * i pages.
 */
#include "target.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 0;
	char buf[64];
	char *start;

	target_init();
	/* Every second page is unmapped, so that each page left is a separate mapping. */
	start = mmap(NULL, (size_t)count * 2 * 4096, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		die("mmap");
	for (long i = 0; i < count; i++) {
		char *page = start + i * 2 * 4096;

		*(uint64_t *)page = (uint64_t)page;
		if (munmap(page + 4096, 4096))
			die("munmap");
	}
	printf("{\"pid\": %d, \"start\": \"%p\", \"count\": %ld}\n", getpid(), (void *)start, count);
	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
