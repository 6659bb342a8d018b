/*
 * varying: a process that has another amount of memory in each moment, so that two stops have cores
 * of different sizes.  It is small: cpio reads a file in pieces of 512 bytes.
 *
 * Prints {"pid": P}.
 */
#include "target.h"

#include <sys/mman.h>

#define PAGE ((size_t)4096)

int main(void)
{
	target_init();
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	for (size_t n = 0;; n++) {
		size_t size = (n % 97 + 1) * PAGE;
		char *memory =
			mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (memory == MAP_FAILED)
			die("mmap");
		memset(memory, 'x', size);
		munmap(memory, size);
	}
}
