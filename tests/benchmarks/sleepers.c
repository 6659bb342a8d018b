/* sleepers N: N children that sleep.  Prints {"pid": P} once all are there. */
#include "../targets/target.h"

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 0;
	char buf[64];

	target_init();
	for (int i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (child == 0) {
			target_init();
			for (;;)
				pause();
		}
	}
	printf("{\"pid\": %d}\n", getpid());
	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
