/*
 * sparse: memory of every kind that is reserved and hardly touched: 10 GiB of it private and
 * anonymous, a memfd and System V memory full of holes, shared memory, memory that may have huge
 * pages, and memory that nobody may read.  Prints {"pid": P, "reserved": BYTES, "shmem": {...}};
 * answers "shmem" with the blocks of each piece of shared memory again.
 */
#include "target.h"

#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>

#define RW (PROT_READ | PROT_WRITE)
#define RESERVED (10UL << 30)
#define SIZE (64UL << 20)

static int fd, id;

static volatile char *map(size_t size, int protection, int flags, int file)
{
	void *start = mmap(NULL, size, protection, flags, file, 0);

	if (start == MAP_FAILED)
		die("mmap");
	return start;
}

static void say_shmem(const char *end)
{
	struct shmid_ds ds;
	struct stat st;
	FILE *f = fopen("/proc/sysvipc/shm", "re");
	char line[512];
	long rss = -1;

	if (!f || fstat(fd, &st) || shmctl(id, IPC_STAT, &ds))
		die("stat");
	while (fgets(line, sizeof(line), f)) {
		long found_id, found_rss;

		if (sscanf(line, "%*d %ld %*o %*u %*d %*d %*u %*u %*u %*u %*u %*u %*u %*u %ld",
			   &found_id, &found_rss) == 2 && found_id == id)
			rss = found_rss;
	}
	fclose(f);
	printf("{\"memfd\": %ld, \"sysv\": %ld}%s", (long)st.st_blocks, rss, end);
}

int main(void)
{
	volatile char *start;
	char buf[64];

	target_init();
	start = map(RESERVED, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	if (madvise((void *)start, RESERVED, MADV_NOHUGEPAGE))
		die("madvise");
	start[RESERVED / 2] = 1;
	fd = memfd_create("sparse", 0);
	if (fd < 0 || ftruncate(fd, SIZE))
		die("memfd_create");
	map(SIZE, RW, MAP_SHARED, fd)[SIZE / 2] = 1;
	map(SIZE, RW, MAP_SHARED | MAP_ANONYMOUS, -1)[SIZE / 2] = 1;
	id = shmget(IPC_PRIVATE, SIZE, 0600);
	start = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
	if (start == (void *)-1 || shmctl(id, IPC_RMID, NULL))
		die("shmat");
	start[SIZE / 2] = 1;
	start = map(SIZE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	/* EINVAL: this kernel has no huge pages */
	madvise((void *)start, SIZE, MADV_HUGEPAGE);
	map(SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	printf("{\"pid\": %d, \"reserved\": %lu, \"shmem\": ", getpid(), RESERVED);
	say_shmem("}\n");
	while (next_command(buf, sizeof(buf)))
		if (!strcmp(buf, "shmem"))
			say_shmem("\n");
		else
			printf("{\"pong\": 1}\n");
	return 0;
}
