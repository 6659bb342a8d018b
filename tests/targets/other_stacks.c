/*
 * other_stacks
 *
 * Threads that do not stand on their own stack.  "alternate" is in the handler of a signal on an
 * alternate stack, with a deep stack of its own behind it (100 frames of 2 KiB each).  "coroutine"
 * runs on a stack of mmap(2), to which it has switched.  The main thread is on an alternate stack
 * too.  First line: {"pid": P, "threads": {"main": TID, "alternate": TID, "coroutine": TID}}.
 */
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <ucontext.h>

#define DEPTH 100
#define STACK (256 << 10)

#define FRAME __attribute__((noipa))

static atomic_int arrived, never;
static _Atomic pid_t alternate, coroutine;
static ucontext_t own, other;

static void wait_for_ever(void)
{
	atomic_fetch_add(&arrived, 1);
	while (!never)
		pause();
}

FRAME static void on_signal(int signal)
{
	(void)signal;
	wait_for_ever();
}

/* Writing after the call keeps the frame (no tail call). */
FRAME static void deep(int left)
{
	volatile char room[2048];

	room[0] = left;
	if (left)
		deep(left - 1);
	else
		raise(SIGUSR1);
	room[1] = room[0];
}

static void take_signal(void)
{
	stack_t stack = { .ss_sp = malloc(STACK), .ss_size = STACK };

	if (!stack.ss_sp || sigaltstack(&stack, NULL) < 0)
		die("sigaltstack");
	deep(DEPTH - 1);
}

static void *run_alternate(void *unused)
{
	alternate = gettid();
	take_signal();
	return unused;
}

FRAME static void in_coroutine(int left)
{
	volatile char room[2048];

	room[0] = left;
	if (left)
		in_coroutine(left - 1);
	else
		wait_for_ever();
	room[1] = room[0];
}

static void begin_coroutine(void)
{
	in_coroutine(9);
}

static void *run_coroutine(void *unused)
{
	coroutine = gettid();
	getcontext(&other);
	other.uc_stack.ss_sp = mmap(NULL, STACK, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (other.uc_stack.ss_sp == MAP_FAILED)
		die("mmap");
	other.uc_stack.ss_size = STACK;
	other.uc_link = &own;
	makecontext(&other, begin_coroutine, 0);
	swapcontext(&own, &other);
	return unused;
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_ONSTACK };
	pthread_t thread;

	target_init();
	if (sigaction(SIGUSR1, &action, NULL) < 0)
		die("sigaction");
	if (pthread_create(&thread, NULL, run_alternate, NULL) ||
	    pthread_create(&thread, NULL, run_coroutine, NULL))
		die("pthread_create");
	while (arrived < 2)
		usleep(1000);
	printf("{\"pid\": %d, \"threads\": {\"main\": %d, \"alternate\": %d, \"coroutine\": %d}}\n",
	       getpid(), getpid(), alternate, coroutine);
	fflush(stdout);
	take_signal();
	return 0;
}
