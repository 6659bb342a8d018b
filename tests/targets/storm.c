/*
 * storm N
 *
 * N threads, each with its own timer, which sends it a signal every 100 microseconds.  So every stop
 * meets some of them just when they take one.  See account.h for the commands.
 */
#include "account.h"

#define EVERY (SECOND / 10000)
#define MOST  64

static _Thread_local volatile long expired, stray;

static void on_signal(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	if (info->si_code == SI_TIMER && info->si_value.sival_int == 42)
		expired += 1 + info->si_overrun;
	else
		stray++;
}

/* Together with the overruns, every expiration is counted. */
static void storm(struct work *w)
{
	struct sigevent event = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM };
	int64_t start = now(), before, after;
	struct itimerspec every = { timespec(EVERY), timespec(start + EVERY) };
	sigset_t set, open;
	timer_t timer;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &set, &open);
	event._sigev_un._tid = gettid();
	event.sigev_value.sival_int = 42;
	if (timer_create(CLOCK_MONOTONIC, &event, &timer) ||
	    timer_settime(timer, TIMER_ABSTIME, &every, NULL))
		die("timer_create");
	while (!ending) {
		before = now();
		sigsuspend(&open);
		after = now();
		if (stray)
			tally(w, "stray");
		else if (expired < (before - start) / EVERY)
			tally(w, "lost");
		else
			tally(w, expired > (after - start) / EVERY ? "too many" : "ok");
	}
	timer_delete(timer);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };
	static struct work works[MOST];
	int n = argc == 2 ? atoi(argv[1]) : 0;

	if (n < 1 || n > MOST)
		return 2;
	target_init();
	if (sigaction(SIGALRM, &action, NULL))
		die("sigaction");
	for (int i = 0; i < n; i++) {
		char *name;

		if (asprintf(&name, "storm %d", i) < 0)
			die("asprintf");
		works[i].name = name;
		works[i].body = storm;
	}
	start_works(works, n);
	printf("{\"pid\": %d, \"threads\": %d}\n", getpid(), n);
	serve(works, n);
	return 0;
}
