/*
 * sharer
 *
 * Prints {"pid": PID}.  "exec" makes a child that keeps its memory (clone(2), CLONE_VM), and turns
 * the process itself into a sleep(1).
 */
#include "target.h"

#include <sched.h>

static char stack[64 << 10] __attribute__((aligned(16)));

static int keep(void *parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != *(pid_t *)parent)
		_exit(0); /* it has died before that */
	for (;;)
		pause();
	return 0;
}

int main(void)
{
	const char *command;
	char line[64];
	static pid_t self;

	target_init();
	self = getpid();
	printf("{\"pid\": %d}\n", self);
	command = next_command(line, sizeof(line));
	if (command && !strcmp(command, "exec")) {
		if (clone(keep, stack + sizeof(stack), CLONE_VM | SIGCHLD, &self) < 0)
			die("clone");
		execlp("sleep", "sleep", "1000", NULL);
		die("execlp");
	}
	return 0;
}
