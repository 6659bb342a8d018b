/*
 * signals
 *
 * Every way to take a signal, each in its own thread.  A child process that nobody stops sends
 * signals all the time: those that it sends while a thread is being stopped, held and let go must
 * all arrive, once, in order and with their values.  See account.h for the commands.
 */
#include "account.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

/* The most that are queued, far below RLIMIT_SIGPENDING. */
#define AHEAD 64

enum { THREAD, STANDARD, BUSY, PROCESS, SIGNALFD, TIMEDWAIT, WAITINFO, CHANNELS };

/* One for each receiver, in memory that the sender shares. */
struct channel {
	_Atomic pid_t tid;
	int sig;
	atomic_int sent, received, disorder;
};

static struct shared {
	pid_t pid;
	atomic_int ending;
	struct channel channels[CHANNELS];
} *shared;

static pid_t sender;
static atomic_int sender_is_gone, last;

static void send_one(int i)
{
	struct channel *c = &shared->channels[i];
	siginfo_t info = { .si_code = SI_QUEUE, .si_pid = sender };
	int unanswered = c->sent - c->received;
	long result;

	/* A standard signal is not queued: send the next one when the last was taken. */
	if (!c->tid || unanswered >= (i == STANDARD ? 1 : AHEAD))
		return;
	info.si_value.sival_int = ++c->sent;
	if (i == STANDARD)
		result = syscall(SYS_tgkill, shared->pid, c->tid, c->sig);
	else if (i == PROCESS)
		result = syscall(SYS_rt_sigqueueinfo, shared->pid, c->sig, &info);
	else
		result = syscall(SYS_rt_tgsigqueueinfo, shared->pid, c->tid, c->sig, &info);
	if (result)
		die("rt_sigqueueinfo");
}

static void send_all(void)
{
	target_init();
	sender = getpid();
	while (!shared->ending) {
		for (int i = 0; i < CHANNELS; i++)
			send_one(i);
		usleep(100);
	}
	_exit(0);
}

static void take(int i, const siginfo_t *info)
{
	struct channel *c = &shared->channels[i];
	int code = i == STANDARD ? SI_TKILL : SI_QUEUE, n = c->received + 1;

	if (info->si_signo != c->sig || info->si_code != code || info->si_pid != sender ||
	    (i != STANDARD && info->si_value.sival_int != n))
		c->disorder++;
	c->received = n;
}

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)context;
	for (int i = 0; i < CHANNELS; i++)
		if (shared->channels[i].sig == sig)
			take(i, info);
}

static sigset_t only(int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return set;
}

static void handle(int i)
{
	struct channel *c = &shared->channels[i];
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | (i % 2 ? SA_RESTART : 0) };
	sigset_t set = only(c->sig);

	if (sigaction(c->sig, &action, NULL) || pthread_sigmask(SIG_UNBLOCK, &set, NULL))
		die("sigaction");
}

/*
 * Calls wait_a_little() until the sender is gone and all its signals have arrived, or for five
 * seconds more.
 */
static void receive(struct work *w, int i, void (*wait_a_little)(void))
{
	struct channel *c = &shared->channels[i];
	int told = 0, disorder;
	int64_t ended = 0;

	c->tid = gettid();
	for (;;) {
		wait_a_little();
		disorder = c->disorder;
		for (; told < c->received; told++)
			tally(w, disorder ? "disorder" : "ok");
		if (sender_is_gone && !ended)
			ended = now();
		if (ended && (c->received >= c->sent || now() - ended > 5 * SECOND))
			break;
	}
	if (c->received != c->sent)
		tally(w, c->received < c->sent ? "lost" : "too many");
}

static void sleep_a_little(void)
{
	const struct timespec ts = { 0, MS };

	nanosleep(&ts, NULL);
}

static void thread_handler(struct work *w)
{
	handle(THREAD);
	receive(w, THREAD, sleep_a_little);
}

static void futex_a_little(void)
{
	const struct timespec ts = { 0, MS };
	uint32_t word = 0;

	futex(&word, FUTEX_WAIT, 0, &ts);
}

static void standard_handler(struct work *w)
{
	handle(STANDARD);
	receive(w, STANDARD, futex_a_little);
}

static void compute_a_little(void)
{
	for (volatile int i = 0; i < 1000; i++)
		;
}

static void busy_handler(struct work *w)
{
	handle(BUSY);
	receive(w, BUSY, compute_a_little);
}

static _Thread_local int epoll_fd, signal_fd;

static void epoll_a_little(void)
{
	struct epoll_event event;

	epoll_wait(epoll_fd, &event, 1, 1);
}

static void process_handler(struct work *w)
{
	epoll_fd = epoll_create1(0);
	handle(PROCESS);
	receive(w, PROCESS, epoll_a_little);
}

static void read_signals(void)
{
	struct signalfd_siginfo found[8];
	struct pollfd pfd = { signal_fd, POLLIN, 0 };
	ssize_t n;

	if (poll(&pfd, 1, 1) != 1)
		return;
	n = read(signal_fd, found, sizeof(found));
	for (int k = 0; k < n / (ssize_t)sizeof(*found); k++) {
		siginfo_t info = { .si_signo = found[k].ssi_signo, .si_code = found[k].ssi_code };

		info.si_pid = found[k].ssi_pid;
		info.si_value.sival_int = found[k].ssi_int;
		take(SIGNALFD, &info);
	}
}

static void signalfd_reader(struct work *w)
{
	sigset_t set = only(shared->channels[SIGNALFD].sig);

	signal_fd = signalfd(-1, &set, 0);
	receive(w, SIGNALFD, read_signals);
}

static void timedwait(void)
{
	const struct timespec ts = { 0, MS };
	sigset_t set = only(shared->channels[TIMEDWAIT].sig);
	siginfo_t info;

	if (sigtimedwait(&set, &info, &ts) > 0)
		take(TIMEDWAIT, &info);
}

static void sigtimedwait_reader(struct work *w)
{
	receive(w, TIMEDWAIT, timedwait);
}

static void waitinfo(void)
{
	sigset_t set = only(shared->channels[WAITINFO].sig);
	siginfo_t info;

	if (last && shared->channels[WAITINFO].received >= last)
		return;
	if (sigwaitinfo(&set, &info) > 0)
		take(WAITINFO, &info);
}

static void sigwaitinfo_reader(struct work *w)
{
	receive(w, WAITINFO, waitinfo);
}

/* A pending, blocked signal stays pending, for the thread and for the process. */
static int is_as_it_was(const sigset_t *mask)
{
	stack_t stack;
	sigset_t m, p;

	return !sigpending(&p) && sigismember(&p, SIGRTMAX) && sigismember(&p, SIGRTMAX - 1) &&
	       sigismember(&p, SIGUSR2) && sigismember(&p, SIGWINCH) && !sigismember(&p, SIGHUP) &&
	       !pthread_sigmask(SIG_BLOCK, NULL, &m) && !memcmp(&m, mask, 8) &&
	       !sigaltstack(NULL, &stack) && stack.ss_flags == 0;
}

static int has_values(int sig, int first)
{
	const struct timespec none = { 0, 0 };
	sigset_t set = only(sig);
	siginfo_t info;

	for (int n = first; n < first + 3; n++)
		if (sigtimedwait(&set, &info, &none) != sig || info.si_value.sival_int != n)
			return 0;
	return sigtimedwait(&set, &info, &none) == -1 && errno == EAGAIN;
}

static void pending(struct work *w)
{
	siginfo_t info = { .si_code = SI_QUEUE, .si_pid = getpid() };
	stack_t stack = { malloc(65536), 0, 65536 };
	sigset_t mask;

	sigaltstack(&stack, NULL);
	for (int n = 1; n <= 3; n++) {
		info.si_value.sival_int = n;
		syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGRTMAX, &info);
		sigqueue(getpid(), SIGRTMAX - 1, (union sigval){ .sival_int = 10 + n });
	}
	pthread_kill(pthread_self(), SIGUSR2);
	kill(getpid(), SIGWINCH);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	while (!ending) {
		poll(NULL, 0, 1);
		tally(w, is_as_it_was(&mask) ? "ok" : "changed");
	}
	if (!has_values(SIGRTMAX, 1) || !has_values(SIGRTMAX - 1, 11))
		tally(w, "lost");
}

/* Ends the sender: from then on all receivers know how many were sent. */
static void end_sender(struct work *w)
{
	struct channel *c = &shared->channels[WAITINFO];
	int64_t ended;
	int status;

	while (!ending) {
		poll(NULL, 0, 1);
		tally(w, "ok");
	}
	shared->ending = 1;
	if (waitpid(sender, &status, 0) != sender || status)
		tally(w, "sender lost");
	/* One more, the last, for the thread that sleeps until a signal comes. */
	last = c->sent + 1;
	for (ended = now(); c->sent != c->received && now() - ended < 5 * SECOND;)
		usleep(100);
	send_one(WAITINFO);
	sender_is_gone = 1;
}

#define WORK(name) { #name, name, 0, 0, 0, 0, {} }

static struct work works[] = {
	WORK(thread_handler), WORK(standard_handler), WORK(busy_handler), WORK(process_handler),
	WORK(signalfd_reader), WORK(sigtimedwait_reader), WORK(sigwaitinfo_reader), WORK(pending),
	WORK(end_sender),
};

int main(void)
{
	int n = sizeof(works) / sizeof(*works);
	sigset_t all;

	target_init();
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		die("mmap");
	shared->pid = getpid();
	for (int i = 0; i < CHANNELS; i++)
		shared->channels[i].sig = i == STANDARD ? SIGUSR1 : SIGRTMIN + i;
	sender = fork();
	if (sender == 0)
		send_all();
	start_works(works, n);
	printf("{\"pid\": %d, \"threads\": %d, \"sender\": %d}\n", getpid(), n, sender);
	serve(works, n);
	return 0;
}
