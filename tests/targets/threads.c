/*
 * threads N [PREFIX]
 *
 * N threads asleep at the end of a known chain of calls, each with its own
 * values in the frames, in its TLS and in its name.  Commands: ping, wake.
 */
#include "target.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>

/* 10,000 threads and more must fit; each needs only a few frames. */
#define STACK_SIZE (64 * 1024)

/* Not inlined, so that the chain is the one in the source. */
#define FRAME __attribute__((noipa))

static const char *const functions[] = {
	"inner", "middle", "outer", "thread_main",
};

struct thread {
	int index;
	pid_t tid;
	pthread_t self;
	char comm[16];
	/* The frames' canaries, innermost first as in functions[]. */
	volatile uint64_t *canary[3];
	uint64_t *tls;
	volatile uint64_t counter;
};

static __thread uint64_t tls_canary;
static const char *prefix = "worker";
static uint32_t round_word; /* goes up with every wake */
static uint32_t arrived;    /* threads that have done their part */

static void arrive(void)
{
	__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST);
	futex(&arrived, FUTEX_WAKE, 1, NULL);
}

static void await_all(uint32_t n)
{
	uint32_t seen;

	while ((seen = __atomic_load_n(&arrived, __ATOMIC_SEQ_CST)) != n)
		futex(&arrived, FUTEX_WAIT, seen, NULL);
}

FRAME static uint64_t inner(struct thread *t)
{
	volatile uint64_t inner_canary = canary(4 * t->index);
	uint32_t now, seen = 0;

	t->canary[0] = &inner_canary;
	arrive();
	for (;;) {
		futex(&round_word, FUTEX_WAIT, seen, NULL);
		now = __atomic_load_n(&round_word, __ATOMIC_SEQ_CST);
		if (now != seen) {
			seen = now;
			t->counter++;
			arrive();
		}
	}
	return inner_canary;
}

/* Using the canary after the call keeps the frame (no tail call). */
FRAME static uint64_t middle(struct thread *t)
{
	volatile uint64_t middle_canary = canary(4 * t->index + 1);

	t->canary[1] = &middle_canary;
	return inner(t) + middle_canary;
}

FRAME static uint64_t outer(struct thread *t)
{
	volatile uint64_t outer_canary = canary(4 * t->index + 2);

	t->canary[2] = &outer_canary;
	return middle(t) + outer_canary;
}

FRAME static void *thread_main(void *arg)
{
	struct thread *t = arg;

	t->tid = gettid();
	t->self = pthread_self();
	t->tls = &tls_canary;
	tls_canary = canary(4 * t->index + 3);
	snprintf(t->comm, sizeof(t->comm), "%s-%d", prefix, t->index);
	if (pthread_setname_np(t->self, t->comm))
		die("pthread_setname_np");
	return (void *)(uintptr_t)outer(t);
}

static void print_thread(const struct thread *t)
{
	printf("{\"tid\": %d, \"comm\": \"%s\", \"pthread_self\": \"0x%lx\", "
	       "\"canaries\": {", t->tid, t->comm, t->self);
	for (int i = 0; i < 3; i++)
		printf("%s\"%s\": {\"address\": \"%p\", \"value\": \"0x%" PRIx64
		       "\"}", i ? ", " : "", functions[i],
		       (void *)t->canary[i], *t->canary[i]);
	printf("}, \"tls\": {\"address\": \"%p\", \"value\": \"0x%" PRIx64 "\"}, "
	       "\"counter\": {\"address\": \"%p\", \"value\": \"0x%" PRIx64
	       "\"}}", (void *)t->tls, *t->tls, (void *)&t->counter,
	       t->counter);
}

int main(int argc, char **argv)
{
	pthread_attr_t attr;
	struct thread *all;
	const char *command;
	char buf[64];
	int n, pings = 0;

	if (argc < 2 || argc > 3 || (n = atoi(argv[1])) < 1) {
		fprintf(stderr, "usage: threads N [PREFIX]\n");
		return 2;
	}
	if (argc == 3)
		prefix = argv[2];
	target_init();

	all = calloc(n, sizeof(*all));
	if (!all)
		die("calloc");
	pthread_attr_init(&attr);
	if (pthread_attr_setstacksize(&attr, STACK_SIZE))
		die("pthread_attr_setstacksize");
	for (int i = 0; i < n; i++) {
		pthread_t thread;

		all[i].index = i;
		if (pthread_create(&thread, &attr, thread_main, &all[i]))
			die("pthread_create");
	}
	await_all(n);
	for (int i = 0; i < n; i++)
		wait_asleep_in(all[i].tid, SYS_futex);

	printf("{\"pid\": %d, \"functions\": [", getpid());
	for (int i = 0; i < 4; i++)
		printf("%s\"%s\"", i ? ", " : "", functions[i]);
	printf("], \"threads\": [");
	for (int i = 0; i < n; i++) {
		printf(i ? ", " : "");
		print_thread(&all[i]);
	}
	printf("]}\n");

	while ((command = next_command(buf, sizeof(buf)))) {
		if (!strcmp(command, "ping")) {
			printf("{\"pong\": %d}\n", ++pings);
		} else if (!strcmp(command, "wake")) {
			__atomic_store_n(&arrived, 0, __ATOMIC_SEQ_CST);
			__atomic_add_fetch(&round_word, 1, __ATOMIC_SEQ_CST);
			futex(&round_word, FUTEX_WAKE, INT_MAX, NULL);
			await_all(n);
			printf("{\"woken\": %d}\n", n);
		} else {
			printf("{\"error\": \"unknown command\"}\n");
		}
	}
	return 0;
}
