/*
 * crasher MIB
 *
 * Four threads sleep, and MIB mebibytes are written.  Prints {"pid": PID}.  A command makes the
 * process crash and write its core:
 *
 *   segv      a null pointer, whose SIGSEGV a tracer sees before the core is written
 *   exit      the leader ends, and the others live on
 *   seccomp   a filter kills, and no tracer sees it (include/linux/signal_types.h, SA_IMMUTABLE)
 */
#include "target.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>

static void *sleeper(void *unused)
{
	(void)unused;
	for (;;)
		pause();
	return NULL;
}

static void die_by_filter(void)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(rules) / sizeof(*rules), rules };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
	getppid();
}

int main(int argc, char **argv)
{
	size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 8) << 20;
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	const char *command;
	pthread_t thread;
	char line[64];
	char *memory;

	target_init();
	if (setrlimit(RLIMIT_CORE, &unlimited) < 0)
		die("setrlimit");
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("mmap");
	memset(memory, 'm', size);
	for (int i = 0; i < 4; i++)
		if (pthread_create(&thread, NULL, sleeper, NULL))
			die("pthread_create");
	printf("{\"pid\": %d}\n", getpid());
	command = next_command(line, sizeof(line));
	if (command && !strcmp(command, "segv"))
		*(volatile char *)NULL = 1;
	if (command && !strcmp(command, "seccomp"))
		die_by_filter();
	if (command && !strcmp(command, "exit"))
		pthread_exit(NULL);
	return 0;
}
