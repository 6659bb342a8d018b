/*
 * ledger
 *
 * Threads asleep in calls that a stop would end with EINTR and in calls that it
 * would not, and a record of everything that woke them: it shows whatever a tracer
 * leaves behind.  16 MiB of touched memory, so that a reader can be in the middle of
 * it.
 *
 * SIGRTMIN has a handler in its own thread and in no other, so that the effect of a
 * handler on a call is not mistaken for the effect of a tracer.  It is a real-time
 * signal, so each signal that is sent is handled once.
 *
 * Commands: wake (each sleeper once, by the event for which it sleeps), account.
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#define MEMORY (16 << 20)
#define NAP_NS 5000000

enum { EPOLL, SIGTIMEDWAIT, FUTEX, SLEEPERS };

static const char *const names[] = { "epoll_wait", "rt_sigtimedwait", "futex" };
static const long numbers[] = { SYS_epoll_wait, SYS_rt_sigtimedwait, SYS_futex };

static struct sleeper {
	pid_t tid;
	uint32_t woken, eintr, other;
} sleepers[SLEEPERS];

static pid_t napper_tid, taker_tid;
static uint32_t naps, nap_eintr, nap_early, handled;
static uint32_t word;
static int event_fd;

#define COUNT(what) __atomic_add_fetch(&(what), 1, __ATOMIC_SEQ_CST)
#define READ(what) __atomic_load_n(&(what), __ATOMIC_SEQ_CST)

static void on_signal(int sig)
{
	(void)sig;
	COUNT(handled);
}

static void account_for(struct sleeper *s, int came)
{
	if (came)
		COUNT(s->woken);
	else if (errno == EINTR)
		COUNT(s->eintr);
	else
		COUNT(s->other);
}

static void *epoll_sleeper(void *arg)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = epoll_create1(EPOLL_CLOEXEC), ready;
	struct sleeper *s = arg;
	uint64_t value;

	if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, event_fd, &event))
		die("epoll");
	s->tid = gettid();
	for (;;) {
		errno = 0;
		ready = epoll_wait(fd, &event, 1, -1);
		account_for(s, ready == 1 && read(event_fd, &value, 8) == 8);
	}
	return NULL;
}

static void *sigtimedwait_sleeper(void *arg)
{
	struct sleeper *s = arg;
	siginfo_t info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	s->tid = gettid();
	for (;;) {
		errno = 0;
		/* not sigwaitinfo(3): a libc may repeat it after EINTR */
		account_for(s, syscall(SYS_rt_sigtimedwait, &set, &info, NULL,
				       8) == SIGUSR2);
	}
	return NULL;
}

static void *futex_sleeper(void *arg)
{
	struct sleeper *s = arg;
	uint32_t seen = 0;

	s->tid = gettid();
	for (;;) {
		errno = 0;
		futex(&word, FUTEX_WAIT, seen, NULL);
		account_for(s, READ(word) != seen);
		seen = READ(word);
	}
	return NULL;
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* A call that the kernel itself restarts, with the rest of its time. */
static void *napper(void *arg)
{
	const struct timespec nap = { .tv_nsec = NAP_NS };
	int64_t begin;

	(void)arg;
	napper_tid = gettid();
	for (;;) {
		begin = now_ns();
		if (nanosleep(&nap, NULL))
			COUNT(nap_eintr);
		else if (now_ns() - begin < NAP_NS)
			COUNT(nap_early);
		COUNT(naps);
	}
	return NULL;
}

static void *taker(void *arg)
{
	sigset_t set;

	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	if (pthread_sigmask(SIG_UNBLOCK, &set, NULL))
		die("pthread_sigmask");
	taker_tid = gettid();
	for (;;)
		pause();
	return NULL;
}

static pthread_t start(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, arg))
		die("pthread_create");
	return thread;
}

static uint32_t woken(void)
{
	uint32_t sum = 0;

	for (int i = 0; i < SLEEPERS; i++)
		sum += READ(sleepers[i].woken);
	return sum;
}

/* Answers only if all of them run. */
static void wake(pthread_t sigtimedwaiter)
{
	uint32_t naps_before = READ(naps), before = woken();
	uint64_t one = 1;

	if (write(event_fd, &one, 8) != 8)
		die("eventfd");
	if (pthread_kill(sigtimedwaiter, SIGUSR2))
		die("pthread_kill");
	COUNT(word);
	futex(&word, FUTEX_WAKE, 1, NULL);
	while (woken() != before + SLEEPERS || READ(naps) == naps_before)
		usleep(1000);
	printf("{\"woken\": %d}\n", SLEEPERS);
}

static void account(void)
{
	printf("{\"handled\": %u, \"nap_eintr\": %u, \"nap_early\": %u",
	       READ(handled), READ(nap_eintr), READ(nap_early));
	for (int i = 0; i < SLEEPERS; i++)
		printf(", \"%s\": {\"woken\": %u, \"eintr\": %u, \"other\": %u}",
		       names[i], READ(sleepers[i].woken),
		       READ(sleepers[i].eintr), READ(sleepers[i].other));
	printf("}\n");
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t sigtimedwaiter;
	const char *command;
	sigset_t set;
	char *memory;
	char buf[64];

	target_init();
	memory = malloc(MEMORY);
	if (!memory)
		die("malloc");
	memset(memory, 1, MEMORY);
	if (sigaction(SIGRTMIN, &action, NULL))
		die("sigaction");
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigaddset(&set, SIGUSR2);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		die("sigprocmask");
	event_fd = eventfd(0, EFD_CLOEXEC);
	if (event_fd < 0)
		die("eventfd");

	start(epoll_sleeper, &sleepers[EPOLL]);
	sigtimedwaiter = start(sigtimedwait_sleeper, &sleepers[SIGTIMEDWAIT]);
	start(futex_sleeper, &sleepers[FUTEX]);
	start(napper, NULL);
	start(taker, NULL);
	for (int i = 0; i < SLEEPERS; i++) {
		while (!READ(sleepers[i].tid))
			usleep(100);
		wait_asleep_in(sleepers[i].tid, numbers[i]);
	}
	while (!READ(napper_tid) || !READ(taker_tid))
		usleep(100);
	wait_asleep_in(taker_tid, SYS_pause);

	printf("{\"pid\": %d, \"memory\": \"%p\", \"napper\": %d, \"taker\": %d",
	       getpid(), (void *)memory, napper_tid, taker_tid);
	for (int i = 0; i < SLEEPERS; i++)
		printf(", \"%s\": %d", names[i], sleepers[i].tid);
	printf("}\n");

	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "wake"))
			wake(sigtimedwaiter);
		else if (!strcmp(command, "account"))
			account();
		else
			printf("{\"error\": \"unknown command\"}\n");
	}
	return 0;
}
