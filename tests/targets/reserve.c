/*
 * reserve GIB PAGES [together]: so many GiB of private anonymous memory, in which PAGES pages
 * are written: at places that a formula scatters, or the first ones together.  The first word
 * of each written page is its own address.  Prints
 * {"pid": P, "start": ADDRESS, "size": BYTES, "pages": N, "step": PAGES, "together": BOOL}:
 * the n-th written page is number (n * step) % (size / 4096), in one piece number n.
 */
#include "target.h"

#include <sys/mman.h>

#define PAGE 4096UL

int main(int argc, char **argv)
{
	unsigned long size, pages, together, count, step;
	char buf[64], *start;

	if (argc < 3)
		return 2;
	target_init();
	size = strtoul(argv[1], NULL, 10) << 30;
	pages = strtoul(argv[2], NULL, 10);
	together = argc > 3;
	count = size / PAGE;
	/* Odd, and so without a common divisor with a power of two of pages. */
	step = together ? 1 : 0x9e3779b1 % count | 1UL;
	start = mmap(NULL, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED || madvise(start, size, MADV_NOHUGEPAGE))
		die("mmap");
	for (unsigned long n = 0; n < pages; n++) {
		char *page = start + n * step % count * PAGE;

		*(volatile char **)page = page;
	}
	printf("{\"pid\": %d, \"start\": \"%p\", \"size\": %lu, \"pages\": %lu, "
	       "\"step\": %lu, \"together\": %s}\n", getpid(), (void *)start, size, pages,
	       step, together ? "true" : "false");
	while (next_command(buf, sizeof(buf)))
		printf("{\"is\": \"here\"}\n");
	return 0;
}
