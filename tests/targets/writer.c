/*
 * writer MIB: a process that changes its memory in every way that a copy ahead of its stop could
 * miss.
 *
 * Its arena is private memory at a fixed address, in chunks of 2 MiB.  Prints {"pid": P, "arena":
 * "0x...", "size": N, "merged": "0x..."}.  Commands, each answered by {"did": "..."}:
 *
 *   write N      one word into each of N random pages
 *   all          one word into every page
 *   move         munmap chunk 1 and mremap chunk 0 to its place: the kernel moves the page table
 *   renew        map two pages in the middle of a chunk anew; read one, write the other
 *   dontneed     MADV_DONTNEED of some pages, of which some are read and some written afterwards
 *   zeros        pages are given back and read: they are the kernel's page of zeros
 *   fill         these pages are written
 *   free         MADV_FREE of some pages
 *   fork         a child is forked, which lives on; then some pages are written
 *   collapse     a chunk becomes a huge page, or is written if it cannot
 *   split        a huge page is divided by an munmap(2) in its middle
 *   protect      a page is written, and then made read-only; another one becomes PROT_NONE
 *   merge        two pages are written with the same bytes and merged by KSM; "unmerge" ends that
 *   grow         a new mapping follows the arena, and is written
 *   direct FILE  read(2) with O_DIRECT from FILE into some pages
 *   ring         a ring of io_uring(7) with chunk 7 as its fixed buffer
 *   fixed FILE   a read from FILE into that buffer by the ring, which pins it
 *   supply       userfaultfd(2): a page of chunk 5 is renewed and supplied
 *   swap         MADV_PAGEOUT of all, then some pages are written
 *   busy N       N threads do most of this at random, until "quiet"
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PAGE ((size_t)4096)
#define CHUNK ((size_t)2 << 20)
#define ARENA ((char *)0x600000000000)
#define NEW (MAP_PRIVATE | MAP_ANONYMOUS)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static size_t size;
static atomic_int is_busy;
static _Atomic uint64_t count;

static void check(int failed, const char *what)
{
	if (failed)
		die(what);
}

static uint64_t next(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return *seed >> 33;
}

static char *chunk(size_t index)
{
	return ARENA + index * CHUNK;
}

static void put(char *page)
{
	*(volatile uint64_t *)(page + 8) = canary(atomic_fetch_add(&count, 1));
}

static void fresh(char *at, size_t length)
{
	check(mmap(at, length, PROT_READ | PROT_WRITE, NEW | MAP_FIXED, -1, 0) == MAP_FAILED, "mmap");
}

static void fill(char *at, size_t length)
{
	for (size_t i = 0; i < length; i += PAGE)
		put(at + i);
}

static void some(uint64_t *seed, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		put(ARENA + next(seed) % (size / PAGE) * PAGE);
}

static void touch(const char *page)
{
	(void)*(const volatile char *)page;
}

/* Chunk `from` takes the place of chunk `to`, and is renewed itself. */
static void move(size_t from, size_t to)
{
	check(munmap(chunk(to), CHUNK), "munmap");
	if (mremap(chunk(from), CHUNK, CHUNK, MREMAP_MAYMOVE | MREMAP_FIXED, chunk(to)) ==
	    MAP_FAILED) {
		check(errno != EFAULT, "mremap"); /* the chunk has several mappings */
		fresh(chunk(to), CHUNK);
	}
	fresh(chunk(from), CHUNK);
	fill(chunk(from), CHUNK / 2);
}

static void renew(char *at)
{
	check(munmap(at, 2 * PAGE), "munmap");
	fresh(at, 2 * PAGE);
	touch(at);
	put(at + PAGE);
}

static void give_back(char *at, int advice)
{
	check(madvise(at, 6 * PAGE, advice), "madvise");
	touch(at);
	put(at + PAGE);
	put(at + 5 * PAGE);
}

static void collapse(char *at)
{
	madvise(at, CHUNK, MADV_HUGEPAGE);
	if (madvise(at, CHUNK, MADV_COLLAPSE))
		fill(at, CHUNK);
	put(at + 7 * PAGE);
}

static void split(char *at)
{
	check(munmap(at + 64 * PAGE, PAGE), "munmap");
	fresh(at + 64 * PAGE, PAGE);
	put(at + 65 * PAGE);
}

static void protect(char *at)
{
	put(at);
	check(mprotect(at, PAGE, PROT_READ), "mprotect");
	put(at + PAGE);
	check(mprotect(at + PAGE, PAGE, PROT_NONE), "mprotect");
}

static void read_directly(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECT);

	check(fd < 0, path);
	for (int i = 0; i < 8; i++)
		check(pread(fd, chunk(5) + 16 * i * PAGE, 4 * PAGE, 0) < 0, "pread");
	close(fd);
}

static struct {
	int fd;
	struct io_uring_params params;
	char *sq;
	struct io_uring_sqe *sqes;
} ring;

static void *map_ring(size_t length, off_t what)
{
	void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, what);

	check(at == MAP_FAILED, "mmap");
	return at;
}

static void make_ring(void)
{
	struct iovec buffer = {chunk(7), 16 * PAGE};

	ring.fd = syscall(SYS_io_uring_setup, 4, &ring.params);
	check(ring.fd < 0, "io_uring_setup");
	ring.sq = map_ring(ring.params.sq_off.array + 4 * ring.params.sq_entries,
			   IORING_OFF_SQ_RING);
	ring.sqes = map_ring(ring.params.sq_entries * sizeof(*ring.sqes), IORING_OFF_SQES);
	check(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1),
	      "io_uring_register");
}

/* The ring has one submission at a time: nobody looks at its completion. */
static void read_fixed(const char *path)
{
	unsigned *tail = (unsigned *)(ring.sq + ring.params.sq_off.tail);
	unsigned mask = *(unsigned *)(ring.sq + ring.params.sq_off.ring_mask);
	unsigned *array = (unsigned *)(ring.sq + ring.params.sq_off.array);
	struct io_uring_sqe *sqe = &ring.sqes[*tail & mask];
	int fd = open(path, O_RDONLY | O_DIRECT);

	check(fd < 0, path);
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_READ_FIXED;
	sqe->fd = fd;
	sqe->addr = (uintptr_t)chunk(7);
	sqe->len = 16 * PAGE;
	array[*tail & mask] = *tail & mask;
	atomic_thread_fence(memory_order_seq_cst);
	*tail += 1;
	check(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1,
	      "io_uring_enter");
	close(fd);
}

static void supply(char *at)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {{(uintptr_t)at, PAGE}, UFFDIO_REGISTER_MODE_MISSING, 0};
	struct uffdio_copy copy = {(uintptr_t)at, (uintptr_t)chunk(5), PAGE, 0, 0};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	check(fd < 0 || ioctl(fd, UFFDIO_API, &api), "userfaultfd");
	fresh(at, PAGE);
	check(ioctl(fd, UFFDIO_REGISTER, &range) || ioctl(fd, UFFDIO_COPY, &copy), "UFFDIO_COPY");
	close(fd);
}

static void fork_child(void)
{
	pid_t pid = fork();

	check(pid < 0, "fork");
	if (!pid) {
		target_init();
		for (;;)
			pause();
	}
}

static void *be_busy(void *argument)
{
	uint64_t seed = (uint64_t)argument;

	while (is_busy) {
		/* Each thread has chunks of its own. */
		size_t at = 8 + next(&seed) % (size / CHUNK - 8) / 4 * 4 + (uint64_t)argument;
		char *page = chunk(at) + next(&seed) % (CHUNK / PAGE - 8) * PAGE;

		switch (next(&seed) % 16) {
		case 0: if (at + 4 < size / CHUNK) move(at, at + 4); break;
		case 1: renew(chunk(at) + 10 * PAGE); break;
		case 2: give_back(chunk(at) + 20 * PAGE, MADV_DONTNEED); break;
		case 3: give_back(chunk(at) + 40 * PAGE, MADV_FREE); break;
		case 4: collapse(chunk(at)); break;
		case 5: split(chunk(at)); break;
		default: put(page);
		}
		if (next(&seed) % 64 == 0)
			usleep(100);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	char buf[256], word[16], path[200] = "";
	uint64_t seed = 1;
	pthread_t threads[4];
	int busy = 0;

	target_init();
	size = (argc > 1 ? strtoul(argv[1], NULL, 0) : 32) << 20;
	fresh(ARENA, size);
	madvise(ARENA, size, MADV_NOHUGEPAGE);
	fill(ARENA, size);
	printf("{\"pid\": %d, \"arena\": \"%p\", \"size\": %zu, \"merged\": \"%p\"}\n", getpid(),
	       (void *)ARENA, size, (void *)chunk(6));
	while (next_command(buf, sizeof(buf))) {
		unsigned long n = 0;

		sscanf(buf, "%15s %199s", word, path);
		n = strtoul(path, NULL, 0);
		if (!strcmp(word, "write"))
			some(&seed, n);
		else if (!strcmp(word, "all"))
			fill(ARENA, size);
		else if (!strcmp(word, "move"))
			move(0, 1);
		else if (!strcmp(word, "renew"))
			renew(chunk(2) + 10 * PAGE);
		else if (!strcmp(word, "dontneed"))
			give_back(chunk(2) + 20 * PAGE, MADV_DONTNEED);
		else if (!strcmp(word, "free"))
			give_back(chunk(2) + 40 * PAGE, MADV_FREE);
		else if (!strcmp(word, "zeros")) {
			check(madvise(chunk(4), 64 * PAGE, MADV_DONTNEED), "madvise");
			for (size_t i = 0; i < 64; i++)
				touch(chunk(4) + i * PAGE);
		} else if (!strcmp(word, "fill"))
			fill(chunk(4), 64 * PAGE);
		else if (!strcmp(word, "fork"))
			fork_child(), some(&seed, 100);
		else if (!strcmp(word, "collapse"))
			collapse(chunk(3));
		else if (!strcmp(word, "split"))
			split(chunk(3));
		else if (!strcmp(word, "protect"))
			protect(chunk(4) + 50 * PAGE);
		else if (!strcmp(word, "merge")) {
			check(madvise(chunk(6), 4 * PAGE, MADV_MERGEABLE), "madvise");
			memset(chunk(6), 7, 2 * PAGE);
		} else if (!strcmp(word, "unmerge"))
			check(madvise(chunk(6), 4 * PAGE, MADV_UNMERGEABLE), "madvise");
		else if (!strcmp(word, "grow"))
			fresh(ARENA + size, CHUNK), fill(ARENA + size, CHUNK);
		else if (!strcmp(word, "direct"))
			read_directly(path);
		else if (!strcmp(word, "ring"))
			make_ring();
		else if (!strcmp(word, "fixed"))
			read_fixed(path);
		else if (!strcmp(word, "supply"))
			supply(chunk(5) + 40 * PAGE);
		else if (!strcmp(word, "swap"))
			check(madvise(ARENA, size, MADV_PAGEOUT), "madvise"), some(&seed, 100);
		else if (!strcmp(word, "busy")) {
			is_busy = 1;
			for (busy = 0; busy < (int)n && busy < 4; busy++)
				check(pthread_create(&threads[busy], NULL, be_busy,
						     (void *)(uint64_t)busy), "pthread_create");
		} else if (!strcmp(word, "quiet")) {
			is_busy = 0;
			while (busy)
				pthread_join(threads[--busy], NULL);
		} else
			die(word);
		printf("{\"did\": \"%s\"}\n", word);
	}
	return 0;
}
