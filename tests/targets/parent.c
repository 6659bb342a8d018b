/*
 * parent [--times] PROGRAM ARGUMENT...: runs PROGRAM as its child, with our standard input and
 * output, and prints {"wait": STATUS} for every wait status that the child's parent gets; with
 * --times also the number of SIGCHLD so far, and the time (CLOCK_MONOTONIC, ns).  If a test were
 * itself the parent of the process that it dumps, it would not see what a parent sees: tracer and
 * parent would be one process (kernel/ptrace.c, ptrace_reparented).
 */
#include "target.h"

#include <sys/wait.h>
#include <time.h>

static volatile sig_atomic_t sigchld;

static void on_sigchld(int sig)
{
	(void)sig;
	sigchld++;
}

static void print_times(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	printf(", \"sigchld\": %d, \"at\": %" PRId64, (int)sigchld,
	       now.tv_sec * INT64_C(1000000000) + now.tv_nsec);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_sigchld, .sa_flags = SA_RESTART };
	int status, times;
	pid_t child;

	times = argc > 1 && !strcmp(argv[1], "--times");
	argc -= times;
	argv += times;
	if (argc < 2)
		return 2;
	target_init();
	if (sigaction(SIGCHLD, &action, NULL))
		die("sigaction");
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		/*
		 * Its own group, with a parent outside it in the same session: signals of the
		 * terminal do not stop a group without such a parent (setpgid(2), orphaned).
		 */
		if (setpgid(0, 0))
			die("setpgid");
		execv(argv[1], argv + 1);
		die(argv[1]);
	}
	do {
		if (waitpid(child, &status, WUNTRACED | WCONTINUED) < 0)
			die("waitpid");
		printf("{\"wait\": %d", status);
		if (times)
			print_times();
		printf("}\n");
		fflush(stdout);
	} while (!WIFEXITED(status) && !WIFSIGNALED(status));
	return 0;
}
