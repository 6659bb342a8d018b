/*
 * traced
 *
 * Makes calls whose result depends on whether somebody traces it: "traceme" asks its parent to trace
 * it (ptrace(2), PTRACE_TRACEME), "clone" makes a child with CLONE_PTRACE (clone(2)), which sleeps.
 * Answers {"errno": N, "child": PID}.
 */
#include "target.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

int main(void)
{
	char buf[64];
	const char *command;

	target_init();
	printf("{\"pid\": %d}\n", getpid());
	while ((command = next_command(buf, sizeof(buf)))) {
		long result = 0, child = 0;

		if (!strcmp(command, "traceme")) {
			result = ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		} else if (!strcmp(command, "clone")) {
			result = child = syscall(SYS_clone, CLONE_PTRACE | SIGCHLD, 0, 0, 0, 0);
			if (!child) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				for (;;)
					pause();
			}
		} else {
			die(command);
		}
		printf("{\"errno\": %d, \"child\": %ld}\n", result < 0 ? errno : 0, child);
	}
	return 0;
}
