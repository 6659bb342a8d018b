/*
 * parent PROGRAM ARGUMENT...: runs PROGRAM as its child, with our standard input and output,
 * and prints {"wait": STATUS} for every wait status that the child's parent is given.  A test
 * that is itself the parent of what it dumps would not see what a parent sees: tracer and
 * parent would be one process (kernel/ptrace.c, ptrace_reparented).
 */
#include "target.h"

#include <sys/wait.h>

int main(int argc, char **argv)
{
	pid_t child;
	int status;

	if (argc < 2)
		return 2;
	target_init();
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		/*
		 * A group of its own, with a parent outside it in the same session: signals
		 * of the terminal do not stop a group without one (setpgid(2), orphaned).
		 */
		if (setpgid(0, 0))
			die("setpgid");
		execv(argv[1], argv + 1);
		die(argv[1]);
	}
	do {
		if (waitpid(child, &status, WUNTRACED | WCONTINUED) < 0)
			die("waitpid");
		printf("{\"wait\": %d}\n", status);
		fflush(stdout);
	} while (!WIFEXITED(status) && !WIFSIGNALED(status));
	return 0;
}
