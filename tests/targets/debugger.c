/*
 * debugger
 *
 * A tracer: it runs its own child from one system call to the next, and must see each entry and each
 * exit, in turn.  See account.h for the commands.
 */
#include "account.h"

#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

static _Atomic pid_t tracee;

static _Noreturn void be_traced(void)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		die("ptrace");
	target_init();
	raise(SIGSTOP);
	for (;;)
		syscall(SYS_getppid);
}

/* "entry" and "exit" alternate: rax is -ENOSYS at an entry. */
static const char *look(pid_t pid, int status, int *is_entry)
{
	struct user_regs_struct regs;

	if (status != ((SIGTRAP | 0x80) << 8 | 0x7f))
		return "another stop";
	if (ptrace(PTRACE_GETREGS, pid, NULL, &regs))
		return "no registers";
	if (regs.orig_rax != SYS_getppid)
		return "another call";
	*is_entry = !*is_entry;
	return (regs.rax == (unsigned long)-ENOSYS) == *is_entry ? "ok" : "out of turn";
}

/* Only the thread that traces may do this. */
static void trace(struct work *w)
{
	int status, is_entry = 0;
	pid_t pid = fork();

	if (pid == 0)
		be_traced();
	if (waitpid(pid, &status, 0) != pid || status != (SIGSTOP << 8 | 0x7f) ||
	    ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL))
		die("ptrace");
	tracee = pid;
	while (!ending) {
		if (ptrace(PTRACE_SYSCALL, pid, NULL, NULL))
			tally(w, "not continued");
		else if (waitpid(pid, &status, 0) != pid)
			tally(w, strerrorname_np(errno));
		else
			tally(w, look(pid, status, &is_entry));
		if (w->rounds % 64 == 0)
			usleep(100);
	}
	kill(pid, SIGKILL);
	if (waitpid(pid, &status, 0) != pid || status != SIGKILL)
		tally(w, "lost");
}

static struct work works[] = { { "trace", trace, 0, 0, 0, 0, {} } };

int main(void)
{
	target_init();
	start_works(works, 1);
	while (!tracee)
		usleep(100);
	printf("{\"pid\": %d, \"tracee\": %d}\n", getpid(), tracee);
	serve(works, 1);
	return 0;
}
