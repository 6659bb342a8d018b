/*
 * team N
 *
 * A process with N children and one grandchild, the child of the last child.  All of them count on
 * in one word of memory that they share.  Prints {"pid": P, "children": [P, ...],
 * "grandchild": P, "address": ADDRESS of the word}.
 */
#include "target.h"

#include <sys/mman.h>
#include <time.h>

struct shared {
	uint64_t count;
	pid_t grandchild;
};

static struct shared *shared;

static _Noreturn void count_on(pid_t parent)
{
	const struct timespec nap = { .tv_nsec = 20000 };

	target_init();
	if (getppid() != parent)
		_exit(0); /* it has died before that */
	for (;;) {
		__atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
		nanosleep(&nap, NULL);
	}
}

static pid_t start(int has_child)
{
	pid_t parent = getpid(), child = fork();

	if (child < 0)
		die("fork");
	if (child == 0) {
		if (has_child)
			__atomic_store_n(&shared->grandchild, start(0), __ATOMIC_SEQ_CST);
		count_on(parent);
	}
	return child;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 0;

	target_init();
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	printf("{\"pid\": %d, \"children\": [", getpid());
	fflush(stdout); /* or each child has it too */
	for (int i = 0; i < n; i++) {
		printf("%s%d", i ? ", " : "", start(i == n - 1));
		fflush(stdout);
	}
	while (n && !__atomic_load_n(&shared->grandchild, __ATOMIC_SEQ_CST))
		usleep(100);
	printf("], \"grandchild\": %d, \"address\": \"%p\"}\n", shared->grandchild,
	       (void *)&shared->count);
	fflush(stdout);
	for (;;) {
		__atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
		usleep(20);
	}
}
