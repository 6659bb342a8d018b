/*
 * works fallocate|bpf
 *
 * A worker makes one call again and again that never sleeps long, and that a signal can end
 * half-way: it allocates all huge pages of a file (fallocate(2), EINTR), or loads a large program
 * (bpf(2), EAGAIN).  SIGUSR1 has a handler without SA_RESTART.
 *
 *   rounds   how many rounds it has done, and how many gave EINTR or EAGAIN, or failed otherwise
 */
#define _GNU_SOURCE
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGES	     3
#define SIZE	     ((off_t)PAGES << 21)
#define INSTRUCTIONS 50000

static volatile long rounds, interrupted, failed;
static struct bpf_insn program[INSTRUCTIONS];

static long allocate(void)
{
	static int fd = -1;

	if (fd < 0)
		fd = memfd_create("fallocate", MFD_HUGETLB);
	fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, SIZE);
	return fallocate(fd, 0, 0, SIZE);
}

static long load(void)
{
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (unsigned long)program,
		.insn_cnt = INSTRUCTIONS,
		.license = (unsigned long)"GPL",
	};
	long fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	if (fd >= 0)
		close(fd);
	return fd;
}

static void *worker(void *arg)
{
	long (*work)(void) = arg;

	for (;;) {
		if (work() >= 0)
			rounds++;
		else if (errno == EINTR || errno == EAGAIN)
			interrupted++;
		else
			failed++;
	}
	return arg;
}

static void handle(int number)
{
	(void)number;
}

int main(int argc, char **argv)
{
	char buf[64];
	const char *command;
	pthread_t thread;
	sigset_t mask;
	struct sigaction action = { .sa_handler = handle };

	target_init();
	if (argc != 2)
		die("arguments");
	for (int i = 0; i < INSTRUCTIONS; i++)
		program[i] = (struct bpf_insn){ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = i };
	program[INSTRUCTIONS - 1] = (struct bpf_insn){ .code = BPF_JMP | BPF_EXIT };
	sigaction(SIGUSR1, &action, NULL);
	if (pthread_create(&thread, NULL, worker, strcmp(argv[1], "bpf") ? allocate : load))
		die("pthread_create");
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1); /* the worker takes it */
	pthread_sigmask(SIG_BLOCK, &mask, NULL);
	printf("{\"pid\": %d}\n", getpid());
	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "rounds"))
			printf("{\"rounds\": %ld, \"interrupted\": %ld, \"failed\": %ld}\n", rounds, interrupted,
			       failed);
		else
			printf("{\"error\": \"unknown command\"}\n");
	}
	return 0;
}
