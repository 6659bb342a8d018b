/*
 * family MEMORY PARENT MIB: a parent and a child that share so many MiB copy-on-write after fork(2).
 * The child is the process that prints the truth, and that answers.
 *
 * MEMORY: small   pages of 4 KiB
 *         thp     huge pages (madvise(2), MADV_HUGEPAGE)
 *         moved   the same, moved by some small pages before the fork (mremap(2))
 *         ksm     pages that may be merged (MADV_MERGEABLE): the second half equals the first
 *         data    a private mapping of a file, written
 *         hugetlb huge pages of the pool (MAP_HUGETLB)
 *         swapped pages of 4 KiB that are swapped out before the fork
 * PARENT: keeps   still has all of it
 *         halves  has the first half of every 2 MiB
 *         drops   no longer has any of it
 *         alone   there is no child: one process with its own memory
 *
 * Each aligned u64 is its own address (for ksm its place in the half, plus one).  Prints {"pid": P,
 * "parent": P, "start": ADDRESS, "size": BYTES}.  Commands: "pages" counts in the child's own
 * pagemap, {"present": N, "exclusive": N, "swapped": N}; "write" writes the first half again, so
 * that it becomes the child's own, {"written": BYTES}; "parent" checks that the parent still has
 * what it should have, {"intact": BOOL}.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE 4096UL
#define HUGE (2UL << 20)
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static size_t size;
static bool is_ksm;
static char *base;
static int question[2], answer[2];

static char *map(void *at, size_t length, int flags, int fd)
{
	char *found = mmap(at, length, RW, flags, fd, 0);

	if (found == MAP_FAILED)
		die("mmap");
	return found;
}

static char *aligned(void *(*take)(size_t))
{
	char *found = take(size + 2 * HUGE);

	return found + (HUGE - (uintptr_t)found % HUGE) % HUGE;
}

static void *reserve(size_t length)
{
	void *found = mmap(NULL, length, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	if (found == MAP_FAILED)
		die("mmap");
	return found;
}

static uint64_t word_at(const volatile char *address)
{
	return is_ksm ? (address - base) % (size / 2) + 1 : (uintptr_t)address;
}

static void fill(volatile char *start, size_t length)
{
	for (size_t at = 0; at < length; at += 8)
		*(volatile uint64_t *)(start + at) = word_at(start + at);
}

static bool is_intact(const volatile char *start, bool in_halves)
{
	for (size_t at = 0; at < size; at += 8)
		if (!(in_halves && at % HUGE >= HUGE / 2) &&
		    *(const volatile uint64_t *)(start + at) != word_at(start + at))
			return false;
	return true;
}

static void advise(void *start, int advice)
{
	if (madvise(start, size, advice))
		die("madvise");
}

static char *take(const char *memory)
{
	FILE *file;
	char *start;

	if (!strcmp(memory, "hugetlb"))
		return map(NULL, size, ANON | MAP_HUGETLB, -1);
	if (!strcmp(memory, "data")) {
		file = tmpfile();
		if (!file || ftruncate(fileno(file), size))
			die("tmpfile");
		return map(NULL, size, MAP_PRIVATE, fileno(file));
	}
	start = map(aligned(reserve), size, ANON | MAP_FIXED, -1);
	advise(start, !strcmp(memory, "thp") || !strcmp(memory, "moved") ? MADV_HUGEPAGE
									  : MADV_NOHUGEPAGE);
	return start;
}

struct counts {
	unsigned long present, exclusive, swapped;
};

static struct counts count_pages(const char *start)
{
	struct counts found = { 0 };
	uint64_t entry;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (size_t at = 0; at < size; at += PAGE) {
		off_t place = ((uintptr_t)start + at) / PAGE * sizeof(entry);

		if (pread(fd, &entry, sizeof(entry), place) != sizeof(entry))
			die("pagemap");
		found.present += entry >> 63;
		found.swapped += entry >> 62 & 1;
		found.exclusive += entry >> 56 & 1;
	}
	close(fd);
	return found;
}

static void tell_pages(const char *start)
{
	struct counts found = count_pages(start);

	printf("{\"present\": %lu, \"exclusive\": %lu, \"swapped\": %lu}\n", found.present,
	       found.exclusive, found.swapped);
}

static void answer_as_parent(const char *start, const char *fate)
{
	char c;

	while (read(question[0], &c, 1) == 1) {
		c = !strcmp(fate, "drops") || is_intact(start, !strcmp(fate, "halves"));
		if (write(answer[1], &c, 1) != 1)
			die("write");
	}
}

static bool parent_is_intact(void)
{
	char c = 0;

	if (write(question[1], &c, 1) != 1 || read(answer[0], &c, 1) != 1)
		die("parent");
	return c;
}

int main(int argc, char **argv)
{
	const char *memory, *fate;
	pid_t child = 0;
	char buf[64], *start;

	if (argc != 4)
		return 2;
	target_init();
	memory = argv[1];
	fate = argv[2];
	size = strtoul(argv[3], NULL, 10) << 20;
	is_ksm = !strcmp(memory, "ksm");
	if (pipe(question) || pipe(answer))
		die("pipe");
	start = base = take(memory);
	fill(start, size);
	if (!strcmp(memory, "moved")) {
		/* Onto other places than a huge page may have: its 512 pages are mapped one by one. */
		char *to = aligned(reserve) + 5 * PAGE;

		start = mremap(start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		if (start == MAP_FAILED)
			die("mremap");
		fill(start, size);
	}
	/* From now on khugepaged makes no huge pages of it; existing ones stay. */
	if (!strcmp(memory, "thp") || !strcmp(memory, "moved"))
		advise(start, MADV_NOHUGEPAGE);
	if (is_ksm)
		advise(start, MADV_MERGEABLE);
	if (!strcmp(memory, "swapped"))
		while (count_pages(start).swapped < size / PAGE) {
			advise(start, MADV_PAGEOUT);
			usleep(1000); /* pages may still be on their way to the list */
		}
	if (strcmp(fate, "alone"))
		child = fork();
	if (child < 0)
		die("fork");
	if (child) {
		close(question[1]);
		close(answer[0]);
		if (!strcmp(fate, "drops") && munmap(start, size))
			die("munmap");
		if (!strcmp(fate, "halves"))
			for (size_t at = HUGE / 2; at < size; at += HUGE)
				if (munmap(start + at, HUGE / 2))
					die("munmap");
		/* The child waits for this before it prints anything. */
		if (write(answer[1], "", 1) != 1)
			die("write");
		answer_as_parent(start, fate);
		return waitpid(child, NULL, 0) < 0;
	}
	target_init();
	if (strcmp(fate, "alone")) {
		close(question[0]);
		close(answer[1]);
		if (read(answer[0], buf, 1) != 1)
			die("read");
	}
	printf("{\"pid\": %d, \"parent\": %d, \"start\": \"%p\", \"size\": %zu}\n", getpid(),
	       getppid(), (void *)start, size);
	while (next_command(buf, sizeof(buf)))
		if (!strcmp(buf, "pages"))
			tell_pages(start);
		else if (!strcmp(buf, "write")) {
			fill(start, size / 2);
			printf("{\"written\": %zu}\n", size / 2);
		} else
			printf("{\"intact\": %s}\n", parent_is_intact() ? "true" : "false");
	return 0;
}
