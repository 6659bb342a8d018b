/*
 * sigchld PROGRAM ARGUMENT...: runs PROGRAM as its child, as parent.c does.  For every SIGCHLD that
 * it gets, prints its content and the results of wait(2) after it:
 *   {"code": si_code, "status": si_status, "waits": [[si_code, si_status], ...]}
 */
#include "target.h"

#include <sys/wait.h>

int main(int argc, char **argv)
{
	siginfo_t info, waited;
	sigset_t set;
	pid_t child;

	if (argc < 2)
		return 2;
	target_init();
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0) {
		/* A group that is not orphaned: see parent.c. */
		if (setpgid(0, 0))
			die("setpgid");
		sigprocmask(SIG_UNBLOCK, &set, NULL);
		execv(argv[1], argv + 1);
		die(argv[1]);
	}
	do {
		const char *comma = "";

		if (sigwaitinfo(&set, &info) != SIGCHLD || info.si_pid != child)
			die("sigwaitinfo");
		printf("{\"code\": %d, \"status\": %d, \"waits\": [", info.si_code, info.si_status);
		for (;;) {
			waited.si_pid = 0;
			if (waitid(P_PID, child, &waited, WEXITED | WSTOPPED | WCONTINUED | WNOHANG) ||
			    !waited.si_pid)
				break;
			printf("%s[%d, %d]", comma, waited.si_code, waited.si_status);
			comma = ", ";
		}
		printf("]}\n");
		fflush(stdout);
	} while (info.si_code != CLD_EXITED && info.si_code != CLD_KILLED);
	return 0;
}
