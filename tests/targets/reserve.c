/*
 * reserve GIB PAGES [PATTERN]: so many GiB of private anonymous memory, with PAGES written pages.
 * The first word of each written page is its own address.
 *
 * PATTERN: even      evenly scattered, by a formula; the default
 *          together  the first ones, in one piece
 *          random    at random places, with gaps of any size
 *          gaps      single pages with gaps of 1 to 8 pages
 *          chunks    chunks of 1 to 16 pages with gaps of 1 to 16 pages
 *
 * Prints {"pid": P, "start": ADDRESS, "size": BYTES, "pages": N, "step": PAGES, "together": BOOL,
 * "runs": [[FIRST, COUNT], ...]}: with even and together, the n-th written page has the number
 * (n * step) % (size / 4096), and there are no runs; with the others, each run is so many written
 * pages, in order.
 */
#include "target.h"

#include <stdbool.h>
#include <sys/mman.h>

#define PAGE 4096UL

static uint64_t state = 88172645463325252ULL;

/* xorshift64 (Marsaglia, Xorshift RNGs) */
static uint64_t draw(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static char *start;
static unsigned long count, pages;
static unsigned char *is_written;

static void write_page(unsigned long number)
{
	char *page = start + number * PAGE;

	if (number >= count)
		exit(2);
	*(volatile char **)page = page;
	is_written[number] = 1;
}

static void write_random(void)
{
	for (unsigned long n = 0; n < pages; n++) {
		unsigned long number = draw(count);

		while (is_written[number])
			number = draw(count);
		write_page(number);
	}
}

static void write_chunks(unsigned long longest, unsigned long widest)
{
	unsigned long at = 0;

	for (unsigned long n = 0; n < pages;) {
		at += 1 + draw(widest);
		for (unsigned long left = 1 + draw(longest); left && n < pages; left--, n++)
			write_page(at++);
	}
}

static void write_by_formula(unsigned long step)
{
	for (unsigned long n = 0; n < pages; n++)
		write_page(n * step % count);
}

static void print_runs(void)
{
	const char *comma = "";

	for (unsigned long first = 0; first < count;) {
		unsigned char *found = memchr(is_written + first, 1, count - first);
		unsigned char *end;

		if (!found)
			break;
		first = found - is_written;
		end = memchr(found, 0, count - first);
		if (!end)
			end = is_written + count;
		printf("%s[%lu, %lu]", comma, first, (unsigned long)(end - found));
		comma = ", ";
		first = end - is_written;
	}
}

int main(int argc, char **argv)
{
	unsigned long size, step;
	const char *pattern;
	bool together;
	char buf[64];

	if (argc < 3)
		return 2;
	target_init();
	size = strtoul(argv[1], NULL, 10) << 30;
	pages = strtoul(argv[2], NULL, 10);
	pattern = argc > 3 ? argv[3] : "even";
	together = !strcmp(pattern, "together");
	count = size / PAGE;
	/* Odd, so it has no common divisor with the number of pages, a power of two. */
	step = together ? 1 : 0x9e3779b1 % count | 1UL;
	start = mmap(NULL, size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED || madvise(start, size, MADV_NOHUGEPAGE))
		die("mmap");
	/* It no longer belongs to the process when it prints its truth. */
	is_written = mmap(NULL, count, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (is_written == MAP_FAILED)
		die("mmap");
	if (!strcmp(pattern, "random"))
		write_random();
	else if (!strcmp(pattern, "gaps"))
		write_chunks(1, 8);
	else if (!strcmp(pattern, "chunks"))
		write_chunks(16, 16);
	else
		write_by_formula(step);
	printf("{\"pid\": %d, \"start\": \"%p\", \"size\": %lu, \"pages\": %lu, "
	       "\"step\": %lu, \"together\": %s, \"runs\": [", getpid(), (void *)start, size,
	       pages, step, together ? "true" : "false");
	if (!together && strcmp(pattern, "even"))
		print_runs();
	if (munmap(is_written, count))
		die("munmap");
	printf("]}\n");
	while (next_command(buf, sizeof(buf)))
		printf("{\"is\": \"here\"}\n");
	return 0;
}
