/*
 * workers [sqpoll]
 *
 * Splices one pipe to another through io_uring.  A worker of the kernel sleeps for that until a
 * thread feeds the pipe from time to time (io_uring/splice.c; a read would be polled).  The worker is
 * among the threads of this process.  With sqpoll, so is a thread of the kernel that takes the
 * submissions (IORING_SETUP_SQPOLL); it sleeps after a millisecond without work.
 * See account.h for the commands.
 */
#include "account.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>

static int ring, is_polled, feed[2], fed[2];
static unsigned *sq_tail, *sq_array, *sq_mask, *sq_flags, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;

static void *map(size_t size, off_t what)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void set_up(unsigned flags)
{
	struct io_uring_params params = { .flags = flags, .sq_thread_idle = 1 };
	char *sq, *cq;

	ring = syscall(SYS_io_uring_setup, 8, &params);
	if (ring < 0 || pipe(feed) || pipe(fed))
		die("io_uring_setup");
	sq = map(params.sq_off.array + params.sq_entries * 4, IORING_OFF_SQ_RING);
	cq = map(params.cq_off.cqes + params.cq_entries * sizeof(*cqes), IORING_OFF_CQ_RING);
	sqes = map(params.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
	sq_tail = (unsigned *)(sq + params.sq_off.tail);
	sq_mask = (unsigned *)(sq + params.sq_off.ring_mask);
	sq_flags = (unsigned *)(sq + params.sq_off.flags);
	is_polled = flags & IORING_SETUP_SQPOLL;
	sq_array = (unsigned *)(sq + params.sq_off.array);
	cq_head = (unsigned *)(cq + params.cq_off.head);
	cq_tail = (unsigned *)(cq + params.cq_off.tail);
	cq_mask = (unsigned *)(cq + params.cq_off.ring_mask);
	cqes = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
}

static void submit(uint64_t tag)
{
	unsigned i = *sq_tail & *sq_mask;

	memset(&sqes[i], 0, sizeof(sqes[i]));
	sqes[i].opcode = IORING_OP_SPLICE;
	sqes[i].flags = IOSQE_ASYNC;
	sqes[i].splice_fd_in = feed[0];
	sqes[i].splice_off_in = -1;
	sqes[i].fd = fed[1];
	sqes[i].off = -1;
	sqes[i].len = 8;
	sqes[i].user_data = tag;
	sq_array[i] = i;
	__atomic_store_n(sq_tail, *sq_tail + 1, __ATOMIC_SEQ_CST);
	if (is_polled) {
		if (__atomic_load_n(sq_flags, __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP &&
		    syscall(SYS_io_uring_enter, ring, 0, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) < 0)
			die("io_uring_enter");
		return;
	}
	if (syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0) != 1)
		die("io_uring_enter");
}

static const char *complete(uint64_t tag)
{
	struct io_uring_cqe *cqe = &cqes[*cq_head & *cq_mask];
	const char *outcome = "ok";
	long result;

	/* Returns when there is a worker, whoever else is stopped meanwhile. */
	result = syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	if (result < 0)
		return strerrorname_np(errno);
	if (*cq_head == __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE))
		return "nothing";
	if (cqe->user_data != tag)
		outcome = "another";
	else if (cqe->res != 8)
		outcome = cqe->res < 0 ? "failed" : "short";
	__atomic_store_n(cq_head, *cq_head + 1, __ATOMIC_RELEASE);
	return outcome;
}

static void *feeder(void *arg)
{
	for (uint64_t n = 1;; n++) {
		usleep(2000);
		if (write(feed[1], &n, 8) != 8)
			die("write");
	}
	return arg;
}

static void splice_on(struct work *w)
{
	uint64_t seen;

	for (uint64_t n = 1; !ending; n++) {
		const char *outcome;

		submit(n);
		outcome = complete(n);
		if (!strcmp(outcome, "ok") && (read(fed[0], &seen, 8) != 8 || seen != n))
			outcome = "another value";
		tally(w, outcome);
	}
}

static struct work works[] = { { "splice_on", splice_on, 0, 0, 0, 0, {} } };

int main(int argc, char **argv)
{
	pthread_t thread;

	target_init();
	set_up(argc > 1 && !strcmp(argv[1], "sqpoll") ? IORING_SETUP_SQPOLL : 0);
	if (pthread_create(&thread, NULL, feeder, NULL))
		die("pthread_create");
	start_works(works, 1);
	while (!works[0].rounds)
		usleep(100);
	printf("{\"pid\": %d, \"threads\": 3}\n", getpid());
	serve(works, 1);
	return 0;
}
