/*
 * crowd PATH PROCESSES OPENS READERS
 *
 * PROCESSES children each open PATH OPENS times and keep the descriptors.  Then READERS threads of
 * each child block in read(2).  Prints how many opens succeeded and how many failed with which
 * errno, and the same for reads that did not block.  Command: end.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define ERRNOS 134

struct counts {
	uint32_t done; /* children that have opened all they could */
	uint32_t opened;
	uint32_t open_errno[ERRNOS];
	uint32_t readers;
	uint32_t reading;
	uint32_t read_errno[ERRNOS];
};

static struct counts *counts;

static void *reader(void *arg)
{
	char byte;

	__atomic_add_fetch(&counts->reading, 1, __ATOMIC_SEQ_CST);
	if (pread((intptr_t)arg, &byte, 1, 0) < 0) { /* read(2) would queue for f_pos */
		__atomic_add_fetch(&counts->read_errno[errno], 1, __ATOMIC_SEQ_CST);
		__atomic_sub_fetch(&counts->reading, 1, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static _Noreturn void child(const char *path, int opens, int readers)
{
	pthread_attr_t attr;
	pthread_t thread;
	int fd = -1;

	target_init();
	for (int i = 0; i < opens; i++) {
		int got = open(path, O_RDONLY | O_CLOEXEC);

		if (got < 0) {
			__atomic_add_fetch(&counts->open_errno[errno], 1, __ATOMIC_SEQ_CST);
			continue;
		}
		fd = got;
		__atomic_add_fetch(&counts->opened, 1, __ATOMIC_SEQ_CST);
	}
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 * 1024);
	if (fd >= 0)
		__atomic_add_fetch(&counts->readers, readers, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&counts->done, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; fd >= 0 && i < readers; i++)
		if (pthread_create(&thread, &attr, reader, (void *)(intptr_t)fd))
			die("pthread_create");
	for (;;)
		pause();
}

static void print_errnos(const char *name, const uint32_t *errnos)
{
	const char *comma = "";

	printf(", \"%s\": {", name);
	for (int i = 0; i < ERRNOS; i++)
		if (errnos[i]) {
			printf("%s\"%d\": %u", comma, i, errnos[i]);
			comma = ", ";
		}
	printf("}");
}

static void report(void)
{
	printf("{\"pid\": %d, \"done\": %u, \"opened\": %u, \"readers\": %u, \"reading\": %u",
	       getpid(), counts->done, counts->opened, counts->readers, counts->reading);
	print_errnos("open", counts->open_errno);
	print_errnos("read", counts->read_errno);
	printf("}\n");
}

int main(int argc, char **argv)
{
	int processes, opens, readers;
	const char *command;
	pid_t *children;
	char buf[64];

	if (argc != 5)
		return 2;
	processes = atoi(argv[2]);
	opens = atoi(argv[3]);
	readers = atoi(argv[4]);
	target_init();
	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	children = calloc(processes, sizeof(*children));
	if (counts == MAP_FAILED || !children)
		die("memory");
	for (int i = 0; i < processes; i++) {
		children[i] = fork();
		if (children[i] < 0)
			die("fork");
		if (children[i] == 0)
			child(argv[1], opens, readers);
	}
	report();
	while ((command = next_command(buf, sizeof(buf))) && strcmp(command, "end"))
		report();
	for (int i = 0; i < processes; i++)
		kill(children[i], SIGKILL);
	for (int i = 0; i < processes; i++)
		waitpid(children[i], NULL, 0);
	report();
	return 0;
}
