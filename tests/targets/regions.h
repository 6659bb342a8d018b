/*
 * Regions of memory whose contents a test can recompute, and how a target prints them.
 *
 * A region is a range of bytes, not a VMA.  Its pattern is one of
 *   address  every aligned u64 = its own address ^ seed
 *   zero
 *   holes    "pages" lists the pages with the address pattern, others are zero
 *   file     the bytes of "path" from "offset"
 *   unknown  not to be asserted
 */
#ifndef REGIONS_H
#define REGIONS_H

#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13, uapi/asm-generic/mman-common.h */
#endif

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static size_t page;
static uint64_t seed;
static char dir[PATH_MAX];
static const char *sep = "";

static void fill(volatile void *start, size_t size)
{
	volatile uint64_t *p = start;

	for (size_t i = 0; i < size / 8; i++)
		p[i] = (uintptr_t)&p[i] ^ seed;
}

static void begin(const char *name, const char *kind, volatile void *start,
		  size_t size, const char *pattern)
{
	printf("%s{\"name\": \"%s\", \"kind\": \"%s\", \"start\": \"0x%" PRIxPTR "\", "
	       "\"end\": \"0x%" PRIxPTR "\", \"pattern\": \"%s\"", sep, name, kind,
	       (uintptr_t)start, (uintptr_t)start + size, pattern);
	sep = ", ";
}

static void region(const char *name, const char *kind, volatile void *start,
		   size_t size, const char *pattern)
{
	begin(name, kind, start, size, pattern);
	printf("}");
}

static void file_region(const char *name, const char *kind, void *start,
			size_t size, const char *path, size_t offset)
{
	begin(name, kind, start, size, "file");
	printf(", \"path\": \"%s\", \"offset\": \"0x%zx\"}", path, offset);
}

static void holes_region(const char *name, const char *kind, char *start)
{
	static const size_t written[] = { 0, 3, 7, 8, 14 };

	begin(name, kind, start, 16 * page, "holes");
	for (size_t i = 0; i < sizeof(written) / sizeof(*written); i++) {
		fill(start + written[i] * page, page);
		printf("%s%zu", i ? ", " : ", \"pages\": [", written[i]);
	}
	printf("]}");
}

static char *map(size_t size, int prot, int flags, int fd, off_t offset)
{
	char *p = mmap(NULL, size, prot, flags, fd, offset);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static char *filled(size_t size, int flags)
{
	char *p = map(size, RW, flags, -1, 0);

	fill(p, size);
	return p;
}

/* A file of size bytes with its own contents. */
static int make_file(const char *name, size_t size, char path[PATH_MAX])
{
	int fd;

	if (snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		die(name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		die(path);
	for (size_t i = 0; i < size; i += 8) {
		uint64_t word = canary(seed + i);
		size_t n = size - i < 8 ? size - i : 8;

		if (pwrite(fd, &word, n, i) != (ssize_t)n)
			die("pwrite");
	}
	return fd;
}

/* A mapping that does not merge with its neighbours. */
static inline char *apart(size_t size, int prot, int flags, int fd)
{
	char *p = map(size + 2 * page, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);

	if (mmap(p + page, size, prot, flags | MAP_FIXED, fd, 0) == MAP_FAILED)
		die("mmap");
	return p + page;
}

static inline char *written(size_t size, int flags, int fd)
{
	char *p = apart(size, RW, flags, fd);

	fill(p, size);
	return p;
}

/* The beginning of the line of truth. */
static void regions_begin(const char *where)
{
	if (!realpath(where, dir))
		die(where);
	page = sysconf(_SC_PAGESIZE);
	/* A different one in every process, so that old data cannot pass for new. */
	seed = canary(getpid());
	printf("{\"pid\": %d, \"page_size\": %zu, \"seed\": \"0x%" PRIx64
	       "\", \"regions\": [", getpid(), page, seed);
}

#endif
