/*
 * sums MIB WRITERS
 *
 * Writers change words all over MIB of memory without pause, each its own words of every page, and
 * keep the sums.  A writer records each change before it makes the change, so at every instant, in
 * the memory of that instant:
 *
 *   if a writer's seq is even, its words add up to its sum;
 *   if it is odd, words[index] is the old or the new word, and the words add up to the sum, or, if
 *   it is the new word, to the next sum;
 *   clock is the number of changes that have begun, except those that begin at this instant.
 *
 * The records lie before the words and the clock behind them, so if a reader reads all of it in turn
 * while one of the writers runs, it finds another sum.  A word is its index, with the number of its
 * changes in the upper half.
 */
#include "target.h"

#include <pthread.h>
#include <sys/mman.h>

#define MOST_WRITERS 16
#define ONE (UINT64_C(1) << 32)

struct writer {
	uint64_t seq, index, before, after, sum;
	uint64_t number;
	pid_t tid;
} __attribute__((aligned(64)));

struct area {
	struct writer writers[MOST_WRITERS];
	uint64_t words[];
};

static struct area *area;
static uint64_t *words, *timer; /* the clock */
static uint64_t slots, writers;

/* Every reader sees these in this order (x86-64 keeps the order of stores). */
#define STORE(what, value) __atomic_store_n(&(what), value, __ATOMIC_RELEASE)

static void change(struct writer *w, uint64_t index)
{
	uint64_t before = words[index], after = before + ONE;

	STORE(w->index, index);
	STORE(w->before, before);
	STORE(w->after, after);
	STORE(w->seq, w->seq + 1);
	__atomic_add_fetch(timer, 1, __ATOMIC_SEQ_CST);
	STORE(words[index], after);
	STORE(w->sum, w->sum + ONE);
	STORE(w->seq, w->seq + 1);
}

static void *write_on(void *arg)
{
	struct writer *w = arg;
	uint64_t x = canary(w->number);

	w->tid = gettid();
	for (;;) {
		/* xorshift64 (Marsaglia 2003): all pages, no order */
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		change(w, x % slots * writers + w->number);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint64_t mib, size;
	pthread_t thread;
	char buf[64];

	if (argc != 3 || (mib = atoi(argv[1])) < 1 || (writers = atoi(argv[2])) < 1 ||
	    writers > MOST_WRITERS) {
		fprintf(stderr, "usage: sums MIB WRITERS\n");
		return 2;
	}
	target_init();
	size = sizeof(*area) + (mib << 20) + 64;
	area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		die("mmap");
	words = area->words;
	timer = words + (mib << 17);
	slots = (mib << 17) / writers;
	for (uint64_t i = 0; i < slots * writers; i++) {
		words[i] = i;
		area->writers[i % writers].sum += i;
	}
	for (uint64_t n = 0; n < writers; n++) {
		area->writers[n].number = n;
		if (pthread_create(&thread, NULL, write_on, &area->writers[n]))
			die("pthread_create");
	}
	for (uint64_t n = 0; n < writers; n++)
		while (!__atomic_load_n(&area->writers[n].seq, __ATOMIC_SEQ_CST))
			usleep(1000);
	printf("{\"pid\": %d, \"area\": \"%p\", \"size\": %" PRIu64 ", \"words\": %zu, "
	       "\"slots\": %" PRIu64 ", \"clock\": %" PRIu64 ", \"stride\": %zu, \"tids\": [",
	       getpid(), (void *)area, size, sizeof(*area), slots,
	       sizeof(*area) + (mib << 20), sizeof(struct writer));
	for (uint64_t n = 0; n < writers; n++)
		printf("%s%d", n ? ", " : "", area->writers[n].tid);
	printf("]}\n");
	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
