/*
 * forked MODE FILE: a process that would notice a child that it has not made.
 *
 *   plain      it reads commands
 *   subreaper  orphans of its descendants become its children
 *   elsewhere  its children come into a new pid namespace
 *   timens     its children come into a new time namespace
 *   filtered   the same as plain, with a filter of system calls that kills it for clone and wait4
 *   strict     it may only read and write (seccomp(2), strict mode), and answers nothing but write
 *   aside      a second thread waits with a stack pointer that leads into memory which nobody may
 *              write; {"aside": ADDRESS} is in the first line
 *   nowhere    the same, and it leads to the last word of all addresses
 *   below      the same, and it leads below memory that grows down
 *   busy       a second thread never leaves user mode, and the first one waits for it
 *   returned   a second thread makes calls that come back to it as SIGSYS
 *
 * It holds a lock on FILE, and both ends of a pipe.  It prints {"pid": P, "sum": S}, S the sum of
 * the words of its memory: 4 MiB that it has for itself, as much shared memory, and memory that no
 * child of it has.  Then it answers
 *   look      {"sigchld": N, "wait": ERRNO, "mask": M}: signals of children, how wait for any child
 *             fails, and the signal mask
 *   write     {"sum": S}: after it has written to all of that memory
 *   close     {"eof": BOOL}: it closes FILE and one end of the pipe, and reads the other one
 *   fork      {"status": N}: it makes a child, and waits for it
 *   turns     {"turns": N}: how often the busy thread has gone round; its registers are checked
 *   clocks    {"clocks": ERRNO}: it sets the clocks of its children
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifdef __x86_64__
#define RESULT REG_RAX
#else
#define RESULT REG_EAX
#endif
#define SIZE (4UL << 20)
#define WORDS (SIZE / sizeof(uint64_t))

static atomic_int sigchld;
static atomic_ulong turns;
static uint64_t *own, *shared, *alone;

static void count(int number)
{
	(void)number;
	sigchld++;
}

static uint64_t *memory(int flags)
{
	void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static uint64_t write_all(uint64_t seed)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++) {
		own[i] = seed + 3 * i;
		shared[i] = seed + 5 * i;
		alone[i] = seed + 7 * i;
		sum += own[i] + shared[i] + alone[i];
	}
	return sum;
}

static void kill_for_a_child(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_clone, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_close_range, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {.len = sizeof(code) / sizeof(*code), .filter = code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
}

/* Words that only this thread writes, in registers and in memory: they always agree. */
static void *go_round(void *argument)
{
	volatile uint64_t here[8] = {0};
	uint64_t number = 0;

	(void)argument;
	for (;;) {
		number++;
		for (int i = 0; i < 8; i++)
			here[i] = number * (uint64_t)(i + 1);
		for (int i = 0; i < 8; i++)
			if (here[i] != number * (uint64_t)(i + 1))
				abort();
		turns = number;
	}
}

static volatile char gives_back;
static volatile uint64_t given_back;

static void answer(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	gives_back = SYSCALL_DISPATCH_FILTER_ALLOW;
	given_back++;
	((ucontext_t *)context)->uc_mcontext.gregs[RESULT] = 4711;
}

/* Each call comes back once: the handler gives the result. */
static void *go_round_by_calls(void *argument)
{
	struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO};

	(void)argument;
	sigaction(SIGSYS, &action, NULL);
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &gives_back))
		die("prctl");
	for (uint64_t number = 1;; number++) {
		gives_back = SYSCALL_DISPATCH_FILTER_BLOCK;
		if (syscall(SYS_getppid) != 4711 || given_back != number)
			abort();
		turns = number;
	}
}

static int set_clocks(void)
{
	static const char offset[] = "monotonic 100 0";
	int file = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	int error = file < 0 || write(file, offset, sizeof(offset) - 1) < 0 ? errno : 0;

	if (file >= 0)
		close(file);
	return error;
}

/* Waits in a read(2) that never ends. */
static void *wait_aside(void *argument)
{
#ifdef __x86_64__
	long result = SYS_read;
	int ends[2];
	char byte;

	if (pipe(ends))
		die("pipe");
	__asm__ volatile("mov %%rsp, %%r12\n\tmov %4, %%rsp\n\tsyscall\n\tmov %%r12, %%rsp"
			 : "+a"(result)
			 : "D"((long)ends[0]), "S"(&byte), "d"(1L), "r"(argument)
			 : "rcx", "r11", "r12", "memory");
#else
	(void)argument;
#endif
	abort();
}

static void serve(int file, int *ends)
{
	char buf[64], byte;
	const char *command;
	uint64_t seed = 1;
	sigset_t mask;

	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "look")) {
			int result = waitpid(-1, NULL, WNOHANG | __WALL);

			sigprocmask(SIG_BLOCK, NULL, &mask);
			printf("{\"sigchld\": %d, \"wait\": %d, \"mask\": %lu}\n", sigchld,
			       result < 0 ? errno : result, *(unsigned long *)&mask);
		} else if (!strcmp(command, "write")) {
			printf("{\"sum\": %" PRIu64 "}\n", write_all(++seed << 40));
		} else if (!strcmp(command, "close")) {
			struct pollfd end = {.fd = ends[0], .events = POLLIN};

			close(file);
			close(ends[1]);
			printf("{\"eof\": %s}\n",
			       poll(&end, 1, 0) == 1 && read(ends[0], &byte, 1) == 0 ? "true" : "false");
		} else if (!strcmp(command, "fork")) {
			int status = -1;
			pid_t child = fork();

			if (child == 0)
				_exit(7);
			if (waitpid(child, &status, 0) != child)
				die("waitpid");
			printf("{\"status\": %d}\n", WEXITSTATUS(status));
		} else if (!strcmp(command, "turns")) {
			unsigned long before = turns;

			while (turns == before)
				;
			printf("{\"turns\": %lu}\n", turns);
		} else if (!strcmp(command, "clocks")) {
			printf("{\"clocks\": %d}\n", set_clocks());
		}
	}
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
	static char input[4096], output[4096];
	void *aside = NULL;
	pthread_t thread;
	int ends[2], file;

	if (argc != 3)
		return 2;
	target_init();
	sigaction(SIGCHLD, &action, NULL);
	file = open(argv[2], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (file < 0 || flock(file, LOCK_EX) || pipe(ends))
		die(argv[2]);
	own = memory(MAP_PRIVATE);
	shared = memory(MAP_SHARED);
	alone = memory(MAP_PRIVATE);
	if (madvise(alone, SIZE / 2, MADV_DONTFORK) ||
	    madvise(alone + WORDS / 2, SIZE / 2, MADV_WIPEONFORK))
		die("madvise");
	if (!strcmp(argv[1], "subreaper") && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		die("prctl");
	if (!strcmp(argv[1], "elsewhere") && unshare(CLONE_NEWPID))
		die("unshare");
	if (!strcmp(argv[1], "timens") && unshare(CLONE_NEWTIME))
		die("unshare");
	if (!strcmp(argv[1], "filtered"))
		kill_for_a_child();
	if (!strcmp(argv[1], "busy") && pthread_create(&thread, NULL, go_round, NULL))
		die("pthread_create");
	if (!strcmp(argv[1], "returned") &&
	    pthread_create(&thread, NULL, go_round_by_calls, NULL))
		die("pthread_create");
	if (!strcmp(argv[1], "aside")) {
		aside = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (aside == MAP_FAILED ||
		    pthread_create(&thread, NULL, wait_aside, (char *)aside + 2048))
			die("aside");
	}
	if (!strcmp(argv[1], "nowhere") &&
	    pthread_create(&thread, NULL, wait_aside, (void *)-16L))
		die("nowhere");
	if (!strcmp(argv[1], "below")) {
		aside = mmap(NULL, 1 << 24, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		munmap(aside, 1 << 24);
		aside = mmap((char *)aside + (1 << 23), 4096, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
		if (aside == MAP_FAILED ||
		    pthread_create(&thread, NULL, wait_aside, (char *)aside - 2048))
			die("below");
	}
	/* Without these, stdio would ask fstat(2) and brk(2). */
	setvbuf(stdin, input, _IOFBF, sizeof(input));
	setvbuf(stdout, output, _IOFBF, sizeof(output));
	printf("{\"pid\": %d, \"sum\": %" PRIu64 ", \"aside\": %lu}\n", getpid(),
	       write_all(UINT64_C(1) << 40), (unsigned long)aside);
	if (!strcmp(argv[1], "strict") && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		die("seccomp");
	serve(file, ends);
	return 0;
}
