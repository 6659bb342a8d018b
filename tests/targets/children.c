/*
 * children
 *
 * Makes children all the time, in every possible way, and checks each: none may be traced or
 * stopped, and each must end with the status that it was given.  One, "sibling", shares the memory
 * but is another process: it counts on, whatever happens to this process.  See account.h for the
 * commands.
 */
#include "account.h"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>

#define TRACED 99

static const char *program;
static char *const none[] = { NULL };
static _Atomic long beats;
static pid_t sibling_pid;

/*
 * For a child that shares our memory and may be between two instructions of libc: takes no lock and
 * does not set errno.
 */
static int is_traced(void)
{
	char buf[1024];
	const char *field;
	ssize_t n;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	field = strstr(buf, "TracerPid:\t");
	return !field || field[11] != '0';
}

static _Noreturn void leave(int status)
{
	int traced = is_traced();

	usleep(200);
	_exit(traced || is_traced() ? TRACED : status);
}

static void tally_child(struct work *w, pid_t pid, int expected)
{
	int status;

	if (pid < 0)
		tally(w, "no child");
	else if (waitpid(pid, &status, WUNTRACED) != pid)
		tally(w, strerrorname_np(errno));
	else if (WIFSTOPPED(status))
		tally(w, "stopped");
	else if (status != expected << 8)
		tally(w, status == TRACED << 8 ? "traced" : "another status");
	else
		tally(w, "ok");
}

static void forker(struct work *w)
{
	for (int n = 0; !ending; n = (n + 1) % 64) {
		pid_t pid = fork();

		if (pid == 0)
			leave(n);
		tally_child(w, pid, n);
	}
}

/* A separate function, so that nobody changes its variables: the child runs on the same stack. */
static __attribute__((noipa)) pid_t vfork_one(const int n, const char *const number)
{
	pid_t pid = vfork();

	if (pid == 0) {
		if (n % 2)
			execle(program, program, "leave", number, NULL, none);
		leave(n);
	}
	return pid;
}

static void vforker(struct work *w)
{
	char number[8];

	for (int n = 0; !ending; n = (n + 1) % 64) {
		snprintf(number, sizeof(number), "%d", n);
		tally_child(w, vfork_one(n, number), n);
	}
}

static void spawner(struct work *w)
{
	for (int n = 0; !ending; n = (n + 1) % 64) {
		char number[8], *argv[] = { (char *)program, "leave", number, NULL };
		pid_t pid = -1;

		snprintf(number, sizeof(number), "%d", n);
		errno = posix_spawn(&pid, program, NULL, NULL, argv, none);
		tally_child(w, pid, n);
	}
}

static int leave_here(void *arg)
{
	leave(*(int *)arg);
}

static void cloner(struct work *w)
{
	char *stack = malloc(65536);

	for (int n = 0; !ending; n = (n + 1) % 64)
		tally_child(w, clone(leave_here, stack + 65536, CLONE_VM | SIGCHLD, &n), n);
}

static int beat(void *arg)
{
	const struct timespec ts = { 0, MS };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
		beats++;
	}
	return arg == NULL;
}

static void sibling(struct work *w)
{
	while (!ending) {
		long before = beats;

		while (beats == before && !ending)
			usleep(1000);
		tally(w, "ok");
	}
	kill(sibling_pid, SIGKILL);
	if (waitpid(sibling_pid, NULL, 0) != sibling_pid)
		tally(w, "lost");
}

#define WORK(name) { #name, name, 0, 0, 0, 0, {} }

static struct work works[] = {
	WORK(forker), WORK(vforker), WORK(spawner), WORK(cloner), WORK(sibling),
};

int main(int argc, char **argv)
{
	int n = sizeof(works) / sizeof(*works);
	char *stack = malloc(65536);

	if (argc == 3)
		leave(atoi(argv[2]));
	target_init();
	program = argv[0];
	sibling_pid = clone(beat, stack + 65536, CLONE_VM | SIGCHLD, NULL);
	if (sibling_pid < 0)
		die("clone");
	start_works(works, n);
	printf("{\"pid\": %d, \"threads\": %d, \"sibling\": %d, \"beats\": \"%p\"}\n", getpid(), n,
	       sibling_pid, (void *)&beats);
	serve(works, n);
	return 0;
}
