/*
 * Programs that do one kind of work in each of several threads, for ever, and record the results.  A
 * work is done in rounds.  Each round ends with one tally() of its outcome: "ok", or the name of what
 * went wrong.  So two runs are compared by their sets of outcomes, and a run in which nothing went
 * wrong has only "ok".
 *
 * Commands:
 *   rounds   {"rounds": {WORK: N, ...}}, for the works with short rounds
 *   report   end every work when its round is over: {WORK: {OUTCOME: N, ...}, ...}
 *   exit     end the process with status 7, whatever its threads do
 */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define OUTCOMES 8
#define SECOND   INT64_C(1000000000)
#define MS       INT64_C(1000000)

struct work {
	const char *name;
	void (*body)(struct work *);
	int is_slow; /* a round takes about a second */
	pthread_t thread;
	_Atomic pid_t tid;
	_Atomic long rounds;
	struct {
		const char *name;
		long n;
	} outcomes[OUTCOMES];
};

static atomic_int ending;

static inline void tally(struct work *w, const char *outcome)
{
	int i = 0;

	while (w->outcomes[i].name && strcmp(w->outcomes[i].name, outcome))
		if (++i == OUTCOMES)
			die("more outcomes than there is room for");
	w->outcomes[i].name = outcome;
	w->outcomes[i].n++;
	w->rounds++;
}

static inline int64_t now_on(clockid_t clock)
{
	struct timespec ts;

	if (clock_gettime(clock, &ts))
		die("clock_gettime");
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

static inline int64_t now(void)
{
	return now_on(CLOCK_MONOTONIC);
}

static inline struct timespec timespec(int64_t ns)
{
	return (struct timespec){ ns / SECOND, ns % SECOND };
}

/*
 * A call that only its time-out ends: it must fail with `error` (0: return 0), and never before
 * `due`.
 */
static inline void tally_timed(struct work *w, long result, int error, int64_t ended, int64_t due)
{
	int failed = result == -1 ? errno : 0;

	if (failed == EINTR)
		tally(w, "eintr");
	else if (result > 0 || failed != error)
		tally(w, failed ? strerrorname_np(failed) : "returned");
	else
		tally(w, ended < due ? "early" : "ok");
}

static void *work_thread(void *arg)
{
	struct work *w = arg;

	w->tid = gettid();
	w->body(w);
	return NULL;
}

static inline void start_works(struct work *works, int n)
{
	for (int i = 0; i < n; i++) {
		if (pthread_create(&works[i].thread, NULL, work_thread, &works[i]))
			die("pthread_create");
		while (!works[i].tid)
			usleep(100);
	}
}

static inline void print_rounds(const struct work *works, int n)
{
	const char *comma = "";

	printf("{\"rounds\": {");
	for (int i = 0; i < n; i++) {
		if (works[i].is_slow)
			continue;
		printf("%s\"%s\": %ld", comma, works[i].name, works[i].rounds);
		comma = ", ";
	}
	printf("}}\n");
}

static inline void print_accounts(const struct work *works, int n)
{
	printf("{");
	for (int i = 0; i < n; i++) {
		printf("%s\"%s\": {", i ? ", " : "", works[i].name);
		for (int k = 0; k < OUTCOMES && works[i].outcomes[k].name; k++)
			printf("%s\"%s\": %ld", k ? ", " : "", works[i].outcomes[k].name,
			       works[i].outcomes[k].n);
		printf("}");
	}
	printf("}\n");
}

/* Serves commands until the report, or EOF. */
static inline void serve(struct work *works, int n)
{
	const char *command;
	char buf[64];

	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "rounds")) {
			print_rounds(works, n);
		} else if (!strcmp(command, "report")) {
			ending = 1;
			for (int i = 0; i < n; i++)
				pthread_join(works[i].thread, NULL);
			print_accounts(works, n);
		} else if (!strcmp(command, "exit")) {
			exit(7);
		} else {
			printf("{\"error\": \"unknown command\"}\n");
		}
	}
}

#endif
