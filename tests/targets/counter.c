/*
 * counter
 *
 * Works all the time and checks itself.  If a tracer changes anything in the
 * process, it shows: in the data, in the results of system calls, in signals.
 * Command: report.
 *
 * For a snapshot taken at one instant, with begun and finished from it:
 *   sum(a) and sum(b) each lie in [finished, begun],
 *   begun - finished is 0 or 1, and if it is 0 then a[i] == b[i] for all i,
 *   if it is 1 then at most one pair differs, by one.
 * The a are in one half of 64 MiB and the b in the other, and all pages change,
 * so a torn snapshot fails the check.
 */
#include "target.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/time.h>
#include <time.h>

#define WORKERS 4
#define PAIRS   (UINT64_C(1) << 22)
#define BATCH   256

static volatile uint64_t *a, *b;
static volatile uint64_t begun, finished;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile pid_t tids[WORKERS];
static uint64_t errors, alarms, eintr, epoll_eintr;

#define COUNT(what) __atomic_add_fetch(&(what), 1, __ATOMIC_RELAXED)

static void on_alarm(int sig)
{
	(void)sig;
	COUNT(alarms);
}

static void add_one(uint64_t i)
{
	pthread_mutex_lock(&lock);
	if (begun != finished || a[i] != b[i])
		COUNT(errors);
	begun = begun + 1;
	a[i] = a[i] + 1;
	b[i] = b[i] + 1;
	finished = finished + 1;
	pthread_mutex_unlock(&lock);
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/*
 * A call that sleeps ns; nothing wakes it earlier.  A ptrace stop must not end it, because
 * the kernel restarts it (restart_syscall(2)).  A handler may end it, even with SA_RESTART
 * (signal(7)).
 */
static void slept(int result, int expected, int64_t start, int64_t ns,
		  int has_handler)
{
	if (result == -1 && errno == EINTR && has_handler)
		COUNT(eintr);
	else if (result != expected || now_ns() - start < ns)
		COUNT(errors);
}

static void system_calls(const int pipe_fd[2], int epoll_fd, unsigned round,
			 int has_handler)
{
	const struct timespec ts = { .tv_nsec = 100000 };
	struct pollfd pfd = { .fd = pipe_fd[0], .events = POLLIN };
	struct epoll_event event;
	int64_t start = now_ns();
	uint32_t word = 0;
	uint64_t out = round, in = 0;
	int ret;

	switch (round % 5) {
	case 0: /* restarted also after a handler (signal(7)) */
		if (write(pipe_fd[1], &out, 8) != 8 ||
		    read(pipe_fd[0], &in, 8) != 8 || in != out)
			COUNT(errors);
		break;
	case 1:
		slept(nanosleep(&ts, NULL), 0, start, ts.tv_nsec, has_handler);
		break;
	case 2:
		slept(poll(&pfd, 1, 1), 0, start, 1000000, has_handler);
		break;
	case 3:
		ret = futex(&word, FUTEX_WAIT, 0, &ts);
		if (ret == -1 && errno == ETIMEDOUT)
			ret = 1;
		slept(ret, 1, start, ts.tv_nsec, has_handler);
		break;
	case 4: /* the one call that a stop alone may end (signal(7)) */
		ret = epoll_wait(epoll_fd, &event, 1, 1);
		if (ret == -1 && errno == EINTR && !has_handler)
			COUNT(epoll_eintr);
		else
			slept(ret, 0, start, 1000000, has_handler);
		break;
	}
}

static void *worker(void *arg)
{
	int index = (intptr_t)arg, has_handler = index == 0, pipe_fd[2], epoll_fd;
	struct epoll_event event = { .events = EPOLLIN };
	uint64_t x = canary(index);
	sigset_t set;

	/* Only the first worker takes the alarms. */
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	if (has_handler && pthread_sigmask(SIG_UNBLOCK, &set, NULL))
		die("pthread_sigmask");
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (epoll_fd < 0 || pipe(pipe_fd) ||
	    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pipe_fd[0], &event))
		die("pipe, epoll");
	tids[index] = gettid();

	for (unsigned round = 0;; round++) {
		for (int i = 0; i < BATCH; i++) {
			/* xorshift64 (Marsaglia 2003): all pages, no order */
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			add_one(x % PAIRS);
		}
		system_calls(pipe_fd, epoll_fd, round, has_handler);
	}
	return NULL;
}

static void report(void)
{
	uint64_t sum = 0, bad = 0, n;

	pthread_mutex_lock(&lock);
	for (uint64_t i = 0; i < PAIRS; i++) {
		sum += a[i];
		bad += a[i] != b[i];
	}
	n = finished;
	bad += begun != n || sum != n;
	pthread_mutex_unlock(&lock);
	__atomic_add_fetch(&errors, bad, __ATOMIC_RELAXED);
	printf("{\"iterations\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"alarms\": %" PRIu64 ", \"eintr\": %" PRIu64
	       ", \"epoll_eintr\": %" PRIu64 "}\n", n, errors, alarms, eintr,
	       epoll_eintr);
}

int main(void)
{
	const struct itimerval khz = { { 0, 1000 }, { 0, 1000 } };
	struct sigaction action = { .sa_handler = on_alarm,
				    .sa_flags = SA_RESTART };
	const char *command;
	char buf[64];
	sigset_t set;

	target_init();
	a = malloc(2 * PAIRS * sizeof(*a));
	if (!a)
		die("malloc");
	b = a + PAIRS;
	/* Through volatile, so that every page exists. */
	for (uint64_t i = 0; i < 2 * PAIRS; i++)
		a[i] = 0;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (sigaction(SIGALRM, &action, NULL))
		die("sigaction");
	for (intptr_t i = 0; i < WORKERS; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, worker, (void *)i))
			die("pthread_create");
		while (!tids[i])
			usleep(1000);
	}
	if (setitimer(ITIMER_REAL, &khz, NULL))
		die("setitimer");

	printf("{\"pid\": %d, \"tids\": [%d, %d, %d, %d], \"pairs\": %" PRIu64
	       ", \"a\": \"%p\", \"b\": \"%p\", \"begun\": \"%p\", "
	       "\"finished\": \"%p\", \"mutex\": \"%p\", \"errors\": \"%p\", "
	       "\"alarms\": \"%p\"}\n", getpid(), tids[0], tids[1], tids[2],
	       tids[3], PAIRS, (void *)a, (void *)b, (void *)&begun,
	       (void *)&finished, (void *)&lock, (void *)&errors,
	       (void *)&alarms);

	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "report"))
			report();
		else
			printf("{\"error\": \"unknown command\"}\n");
	}
	return 0;
}
