/*
 * variables: values that differ from those in the program's file, wherever a variable may be.
 * Prints {"pid": P, "heap": ADDRESS, "anon": ADDRESS}.
 */
#include "target.h"

#include <sys/mman.h>

/* Each alone on its pages, so that no other need takes them into a core. */
#define PAGES __attribute__((aligned(8192)))

volatile PAGES int initialized[4096] = { 1 };
volatile PAGES int untouched[4096] = { 5 };
volatile PAGES int zeroed[4096];
volatile int *heap;
volatile int *anon;
volatile PAGES int end[4096];

int main(void)
{
	char buf[64];

	target_init();
	initialized[0] = 2;
	zeroed[0] = 3;
	heap = malloc(64 << 10);
	anon = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!heap || anon == MAP_FAILED)
		die("memory");
	heap[8192] = 4;
	anon[65536] = 6;
	end[0] = 7;
	printf("{\"pid\": %d, \"heap\": \"%p\", \"anon\": \"%p\"}\n", getpid(), (void *)&heap[8192],
	       (void *)&anon[65536]);
	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
