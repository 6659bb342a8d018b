/*
 * scattered N: anonymous memory of 2 * N pages.  Every other page is written, beginning with the
 * first.  Prints {"pid": P, "start": ADDRESS}.
 */
#include "target.h"

#include <sys/mman.h>

#define PAGE 4096L

int main(int argc, char **argv)
{
	long count = argc == 2 ? atol(argv[1]) : 0;
	char buf[64], *start;

	target_init();
	start = mmap(NULL, 2 * count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		     -1, 0);
	if (start == MAP_FAILED || madvise(start, 2 * count * PAGE, MADV_NOHUGEPAGE))
		die("mmap");
	for (long i = 0; i < count; i++)
		start[2 * i * PAGE] = 1;
	printf("{\"pid\": %d, \"start\": \"%p\"}\n", getpid(), (void *)start);
	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
