/*
 * holes: memory of each kind that can have holes.  A few pages of each are written, each with its own
 * address.  Prints {"pid": P, "regions": [{"name", "start", "size", "pages"}]}: pages are the numbers
 * of the pages that are not zeros.  Those of "other" and "read_only" were written through the file
 * and never touched through the mapping, so only the file has them.
 */
#include "target.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define PAGE 4096L
#define SIZE (64L << 20)

static const long pages[] = {0, 3, 4, 511, 512, 5000, SIZE / PAGE - 1};
#define COUNT (sizeof(pages) / sizeof(pages[0]))

static char *map_as(int protection, int flags, int fd)
{
	char *start = mmap(NULL, SIZE, protection, flags, fd, 0);

	if (start == MAP_FAILED || madvise(start, SIZE, MADV_NOHUGEPAGE))
		die("mmap");
	return start;
}

static char *map(int flags, int fd)
{
	return map_as(PROT_READ | PROT_WRITE, flags, fd);
}

static int memfd(void)
{
	int fd = memfd_create("holes", 0);

	if (fd < 0 || ftruncate(fd, SIZE))
		die("memfd_create");
	return fd;
}

static void show(const char *name, char *start, const char *end)
{
	printf("{\"name\": \"%s\", \"start\": \"%p\", \"size\": %ld, \"pages\": [", name,
	       (void *)start, SIZE);
	for (size_t i = 0; i < COUNT; i++)
		printf("%ld%s", pages[i], i + 1 < COUNT ? ", " : "]}");
	fputs(end, stdout);
}

static char *written(char *start)
{
	for (size_t i = 0; i < COUNT; i++)
		*(uint64_t *)(start + pages[i] * PAGE) = (uint64_t)start + pages[i] * PAGE;
	return start;
}

/* Written only through the file. */
static char *written_elsewhere(char *start, int fd)
{
	for (size_t i = 0; i < COUNT; i++) {
		uint64_t word = (uint64_t)start + pages[i] * PAGE;

		if (pwrite(fd, &word, sizeof(word), pages[i] * PAGE) != sizeof(word))
			die("pwrite");
	}
	return start;
}

int main(void)
{
	char buf[64], path[64];
	int id, fd, read_only_fd, read_only;
	char *sysv;

	target_init();
	id = shmget(IPC_PRIVATE, SIZE, 0600);
	sysv = id < 0 ? (char *)-1 : shmat(id, NULL, 0);
	if (sysv == (char *)-1 || shmctl(id, IPC_RMID, NULL))
		die("shmat");
	fd = memfd();
	read_only_fd = memfd();
	snprintf(path, sizeof(path), "/proc/self/fd/%d", read_only_fd);
	read_only = open(path, O_RDONLY);
	if (read_only < 0)
		die(path);
	printf("{\"pid\": %d, \"regions\": [", getpid());
	show("private", written(map(MAP_PRIVATE | MAP_ANONYMOUS, -1)), ", ");
	show("shared", written(map(MAP_SHARED | MAP_ANONYMOUS, -1)), ", ");
	show("memfd", written(map(MAP_SHARED, memfd())), ", ");
	show("sysv", written(sysv), ", ");
	show("other", written_elsewhere(map(MAP_SHARED, fd), fd), ", ");
	show("read_only",
	     written_elsewhere(map_as(PROT_READ, MAP_SHARED, read_only), read_only_fd), "]}\n");
	while (next_command(buf, sizeof(buf)))
		printf("{\"pong\": 1}\n");
	return 0;
}
