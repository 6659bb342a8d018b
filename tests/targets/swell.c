/*
 * swell: a process that grows when it is told to.
 *
 * Prints {"pid": P}.  Commands: "memory MIB" writes so much more memory, {"resident": BYTES}, as its
 * own /proc/self/statm has it; "threads N" starts so many more, which sleep, {"threads": N}, all
 * that it has; "spin" keeps one processor busy from now on, "rest" does not, {"spins": BOOL}.
 */
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_int spins;

static void *sleeper(void *arg)
{
	for (;;)
		pause();
	return arg;
}

static void *spinner(void *arg)
{
	for (;;) {
		while (spins)
			;
		usleep(1000);
	}
	return arg;
}

static long resident(void)
{
	long size, pages;
	FILE *file = fopen("/proc/self/statm", "re");

	if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2)
		die("statm");
	fclose(file);
	return pages * sysconf(_SC_PAGESIZE);
}

int main(void)
{
	const char *command;
	char buf[64];
	int count = 2;
	long amount;
	pthread_t thread;

	target_init();
	if (pthread_create(&thread, NULL, spinner, NULL))
		die("pthread_create");
	printf("{\"pid\": %d}\n", getpid());
	while ((command = next_command(buf, sizeof(buf)))) {
		if (sscanf(command, "memory %ld", &amount) == 1) {
			char *memory = malloc(amount << 20);

			if (!memory)
				die("malloc");
			memset(memory, 1, amount << 20);
			printf("{\"resident\": %ld}\n", resident());
		} else if (sscanf(command, "threads %ld", &amount) == 1) {
			for (; amount > 0; amount--, count++)
				if (pthread_create(&thread, NULL, sleeper, NULL))
					die("pthread_create");
			printf("{\"threads\": %d}\n", count);
		} else {
			spins = !strcmp(command, "spin");
			printf("{\"spins\": %s}\n", spins ? "true" : "false");
		}
	}
	return 0;
}
