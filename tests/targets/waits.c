/*
 * waits
 *
 * Every wait with a time-out, each in its own thread, again and again.  Nothing but the time-out
 * ever ends a wait: see account.h for the commands.  Some calls the kernel restarts with the rest of
 * the time, some it restarts from the beginning, and some gcorefs has restarted.  In the end all must
 * have the same results as without stops.
 */
#include "account.h"

#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <semaphore.h>
#include <fcntl.h>

#define WAIT (3 * MS)

/* A wait that counts in ticks may be too short by this much: CONFIG_HZ is 100 or more. */
#define TICK (10 * MS)

#define REPEAT(w, clock, wait, error, call)                                       \
	while (!ending) {                                                         \
		int64_t start = now_on(clock);                                    \
		int64_t due = start + (wait);                                     \
		struct timespec relative = timespec(wait);                        \
		struct timespec absolute = timespec(due);                         \
		long result;                                                      \
		(void)relative, (void)absolute;                                   \
		result = (call);                                                  \
		tally_timed(w, result, error, now_on(clock), due);                \
	}

static long failed(int error)
{
	errno = error;
	return error ? -1 : 0;
}

static int empty_pipe(void)
{
	int fd[2];

	if (pipe(fd))
		die("pipe");
	return fd[0];
}

static void nanosleep_(struct work *w)
{
	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0, nanosleep(&relative, NULL));
}

static void sleep_relative(struct work *w)
{
	REPEAT(w, CLOCK_BOOTTIME, WAIT, 0,
	       failed(clock_nanosleep(CLOCK_BOOTTIME, 0, &relative, NULL)));
}

static void sleep_absolute(struct work *w)
{
	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0,
	       failed(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &absolute, NULL)));
}

static void futex_relative(struct work *w)
{
	uint32_t word = 0;

	REPEAT(w, CLOCK_MONOTONIC, WAIT, ETIMEDOUT, futex(&word, FUTEX_WAIT, 0, &relative));
}

static void futex_absolute(struct work *w)
{
	uint32_t word = 0;

	REPEAT(w, CLOCK_MONOTONIC, WAIT, ETIMEDOUT,
	       syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &absolute, NULL, ~0));
}

static void futex_realtime(struct work *w)
{
	uint32_t word = 0;

	REPEAT(w, CLOCK_REALTIME, WAIT, ETIMEDOUT,
	       syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0,
		       &absolute, NULL, ~0));
}

static void futex_vector(struct work *w)
{
	uint32_t word = 0;
	struct futex_waitv waitv = { 0, (uintptr_t)&word, FUTEX_32 | FUTEX_PRIVATE_FLAG, 0 };

	REPEAT(w, CLOCK_MONOTONIC, WAIT, ETIMEDOUT,
	       syscall(SYS_futex_waitv, &waitv, 1, 0, &absolute, CLOCK_MONOTONIC));
}

/* The main thread has this lock and keeps it. */
static uint32_t pi_word;

static void futex_lock_pi(struct work *w)
{
	REPEAT(w, CLOCK_REALTIME, WAIT, ETIMEDOUT,
	       syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, &absolute));
}

static void condition(struct work *w)
{
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_cond_t never = PTHREAD_COND_INITIALIZER;

	pthread_mutex_lock(&lock);
	REPEAT(w, CLOCK_REALTIME, WAIT, ETIMEDOUT,
	       failed(pthread_cond_timedwait(&never, &lock, &absolute)));
}

static void semaphore(struct work *w)
{
	sem_t never;

	sem_init(&never, 0, 0);
	REPEAT(w, CLOCK_REALTIME, WAIT, ETIMEDOUT, sem_timedwait(&never, &absolute));
}

static void sysv_semaphore(struct work *w)
{
	struct sembuf take = { 0, -1, 0 };
	int id = semget(IPC_PRIVATE, 1, 0600);

	if (id < 0)
		die("semget");
	REPEAT(w, CLOCK_MONOTONIC, WAIT, EAGAIN, semtimedop(id, &take, 1, &relative));
	semctl(id, 0, IPC_RMID);
}

static void message_queue(struct work *w)
{
	struct mq_attr attr = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	char name[32], message[8];
	mqd_t queue;

	snprintf(name, sizeof(name), "/waits-%d", getpid());
	queue = mq_open(name, O_RDONLY | O_CREAT | O_EXCL, 0600, &attr);
	if (queue < 0)
		die("mq_open");
	mq_unlink(name);
	REPEAT(w, CLOCK_REALTIME, WAIT, ETIMEDOUT,
	       mq_timedreceive(queue, message, 8, NULL, &absolute));
}

static void poll_(struct work *w)
{
	struct pollfd pfd = { empty_pipe(), POLLIN, 0 };

	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0, poll(&pfd, 1, WAIT / MS));
}

static void ppoll_(struct work *w)
{
	struct pollfd pfd = { empty_pipe(), POLLIN, 0 };

	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0, ppoll(&pfd, 1, &relative, NULL));
}

static void select_(struct work *w)
{
	int fd = empty_pipe();
	struct timeval tv;
	fd_set fds;

	FD_ZERO(&fds);
	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0,
	       (FD_SET(fd, &fds), tv = (struct timeval){ 0, WAIT / 1000 },
		select(fd + 1, &fds, NULL, NULL, &tv)));
}

static void pselect_(struct work *w)
{
	int fd = empty_pipe();
	sigset_t all;
	fd_set fds;

	FD_ZERO(&fds);
	sigfillset(&all); /* the signals of the other threads are not for us */
	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0,
	       (FD_SET(fd, &fds), pselect(fd + 1, &fds, NULL, NULL, &relative, &all)));
}

static void epoll(struct work *w)
{
	struct epoll_event event;
	int fd = epoll_create1(0);

	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0, epoll_wait(fd, &event, 1, WAIT / MS));
}

static void epoll_fine(struct work *w)
{
	struct epoll_event event;
	int fd = epoll_create1(0);

	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0,
	       syscall(SYS_epoll_pwait2, fd, &event, 1, &relative, NULL, 0));
}

static void sigtimedwait_(struct work *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	REPEAT(w, CLOCK_MONOTONIC, WAIT, EAGAIN, sigtimedwait(&set, NULL, &relative));
}

static void socket_(struct work *w)
{
	struct timeval tv = { 0, (WAIT + TICK) / 1000 };
	int fd[2];
	char c;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) ||
	    setsockopt(fd[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)))
		die("socketpair");
	REPEAT(w, CLOCK_MONOTONIC, WAIT, EAGAIN, recv(fd[0], &c, 1, 0));
}

static void aio(struct work *w)
{
	aio_context_t context = 0;
	struct io_event event;

	if (syscall(SYS_io_setup, 1, &context))
		die("io_setup");
	REPEAT(w, CLOCK_MONOTONIC, WAIT, 0,
	       syscall(SYS_io_getevents, context, 1, 1, &event, &relative));
}

static void io_uring(struct work *w)
{
	struct io_uring_params params = { 0 };
	struct __kernel_timespec ts = { 0, WAIT };
	struct io_uring_getevents_arg arg = { .ts = (uintptr_t)&ts };
	int fd = syscall(SYS_io_uring_setup, 1, &params);

	if (fd < 0)
		die("io_uring_setup");
	REPEAT(w, CLOCK_MONOTONIC, WAIT, ETIME,
	       syscall(SYS_io_uring_enter, fd, 0, 1,
		       IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof(arg)));
}

/* `count` expirations of a timer of period WAIT since `start`, counted between two readings. */
static void tally_expirations(struct work *w, uint64_t count, int64_t start, int64_t before,
			      int64_t after)
{
	if (count < (uint64_t)((before - start) / WAIT))
		tally(w, "lost");
	else if (count > (uint64_t)((after - start) / WAIT))
		tally(w, "too many");
	else
		tally(w, "ok");
}

static void timerfd(struct work *w)
{
	int64_t start = now(), before;
	struct itimerspec every = { timespec(WAIT), timespec(start + WAIT) };
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t expired, count = 0;

	if (fd < 0 || timerfd_settime(fd, TFD_TIMER_ABSTIME, &every, NULL))
		die("timerfd");
	while (!ending) {
		before = now();
		if (read(fd, &expired, 8) != 8) {
			tally(w, strerrorname_np(errno));
			continue;
		}
		count += expired;
		tally_expirations(w, count, start, before, now());
	}
}

/* A timer that signals only this thread; the overruns are expirations too. */
static void posix_timer(struct work *w)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN };
	int64_t start = now(), before;
	struct itimerspec every = { timespec(WAIT), timespec(start + WAIT) };
	uint64_t count = 0;
	siginfo_t info;
	timer_t timer;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	event._sigev_un._tid = gettid();
	event.sigev_value.sival_int = 42;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) ||
	    timer_settime(timer, TIMER_ABSTIME, &every, NULL))
		die("timer_create");
	while (!ending) {
		before = now();
		if (sigwaitinfo(&set, &info) != SIGRTMIN || info.si_code != SI_TIMER ||
		    info.si_value.sival_int != 42) {
			tally(w, "another signal");
			continue;
		}
		count += 1 + info.si_overrun;
		tally_expirations(w, count, start, before, now());
	}
	timer_delete(timer);
}

static _Thread_local volatile sig_atomic_t caught;

static void on_timer(int sig)
{
	(void)sig;
	caught++;
}

/* One signal each time the timer is set, and none after that. */
static void tally_caught(struct work *w, int64_t elapsed, int64_t wait)
{
	if (caught != 1)
		tally(w, caught ? "too many" : "lost");
	else
		tally(w, elapsed < wait ? "early" : "ok");
	caught = 0;
}

static void receive(int sig)
{
	sigset_t set;

	if (signal(sig, on_timer) == SIG_ERR)
		die("signal");
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ITIMER_REAL and alarm(2) are the same timer, so one thread uses both in turn. */
static void alarms(struct work *w)
{
	const struct itimerval once = { { 0, 0 }, { 0, WAIT / 1000 } };
	sigset_t set, open;
	int64_t start, wait;

	receive(SIGALRM);
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, &open);
	sigdelset(&open, SIGALRM);
	for (int round = 0; !ending || round <= 20; round++) {
		start = now();
		wait = WAIT;
		if (round == 20) {
			wait = SECOND;
			alarm(1);
		} else if (setitimer(ITIMER_REAL, &once, NULL)) {
			die("setitimer");
		}
		if (sigsuspend(&open) != -1 || errno != EINTR)
			tally(w, "returned");
		tally_caught(w, now() - start, wait);
	}
}

/* These run on CPU time: that of the process, its user time, or all of it. */
static void burn(struct work *w, int which, int sig)
{
	const struct itimerval once = { { 0, 0 }, { 0, WAIT / 1000 } };
	int64_t start;

	receive(sig);
	while (!ending) {
		start = now_on(CLOCK_PROCESS_CPUTIME_ID);
		if (setitimer(which, &once, NULL))
			die("setitimer");
		while (!caught)
			;
		tally_caught(w, now_on(CLOCK_PROCESS_CPUTIME_ID) - start + TICK, WAIT);
		usleep(WAIT / 1000);
	}
}

static void itimer_virtual(struct work *w)
{
	burn(w, ITIMER_VIRTUAL, SIGVTALRM);
}

static void itimer_prof(struct work *w)
{
	burn(w, ITIMER_PROF, SIGPROF);
}

struct robust {
	pthread_mutex_t lock;
	sem_t taken;
};

static void *die_with_lock(void *arg)
{
	struct robust *r = arg;

	pthread_mutex_lock(&r->lock);
	sem_post(&r->taken);
	usleep(100);
	return NULL;
}

/* A thread that ends with a lock leaves a message for the next owner (get_robust_list(2)). */
static void robust(struct work *w)
{
	pthread_mutexattr_t attr;
	pthread_t thread;
	struct robust r;
	int result;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&r.lock, &attr);
	sem_init(&r.taken, 0, 0);
	while (!ending) {
		if (pthread_create(&thread, NULL, die_with_lock, &r))
			die("pthread_create");
		sem_wait(&r.taken);
		result = pthread_mutex_lock(&r.lock);
		if (result == EOWNERDEAD)
			result = pthread_mutex_consistent(&r.lock) ? -1 : EOWNERDEAD;
		pthread_mutex_unlock(&r.lock);
		pthread_join(thread, NULL);
		tally(w, result == EOWNERDEAD ? "ok" : "owner forgotten");
	}
}

/* Two threads and a lock that gives its holder the priority of the waiter. */
static pthread_mutex_t pi_mutex;
static volatile long left, right;

static void priority_lock(struct work *w)
{
	int is_torn;

	while (!ending) {
		if (pthread_mutex_lock(&pi_mutex))
			die("pthread_mutex_lock");
		is_torn = left != right;
		left = left + 1;
		usleep(200);
		right = right + 1;
		if (pthread_mutex_unlock(&pi_mutex))
			die("pthread_mutex_unlock");
		tally(w, is_torn ? "torn" : "ok");
	}
}

#define WORK(name) { #name, name, 0, 0, 0, 0, {} }

static struct work works[] = {
	WORK(nanosleep_), WORK(sleep_relative), WORK(sleep_absolute), WORK(futex_relative),
	WORK(futex_absolute), WORK(futex_realtime), WORK(futex_vector), WORK(futex_lock_pi),
	WORK(condition), WORK(semaphore), WORK(sysv_semaphore), WORK(message_queue), WORK(poll_),
	WORK(ppoll_), WORK(select_), WORK(pselect_), WORK(epoll), WORK(epoll_fine),
	WORK(sigtimedwait_), WORK(socket_), WORK(aio), WORK(io_uring), WORK(timerfd),
	WORK(posix_timer), { "alarms", alarms, 1, 0, 0, 0, {} }, WORK(itimer_virtual),
	WORK(itimer_prof), WORK(robust), { "priority_lock", priority_lock, 0, 0, 0, 0, {} },
	{ "priority_lock_2", priority_lock, 0, 0, 0, 0, {} },
};

int main(void)
{
	int n = sizeof(works) / sizeof(*works);
	pthread_mutexattr_t attr;
	sigset_t set;

	target_init();
	/* The thread for which it is meant takes each of them. */
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigaddset(&set, SIGVTALRM);
	sigaddset(&set, SIGPROF);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL))
		die("futex");
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&pi_mutex, &attr);
	start_works(works, n);
	printf("{\"pid\": %d, \"threads\": %d}\n", getpid(), n);
	serve(works, n);
	return 0;
}
