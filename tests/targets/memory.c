/*
 * memory DIR [THREADS]
 *
 * One region of each kind of memory, each with contents that a test can recompute.
 * Files go to DIR; those of deleted mappings are already deleted when it prints.
 * The regions and their patterns are those of regions.h.  THREADS more threads sleep.
 */
#include "regions.h"

#include <link.h>
#include <pthread.h>
#include <sys/shm.h>

/* Initialised, so that it lies in .data. */
static volatile uint64_t in_data[512] = { 1 };
static volatile uint64_t in_bss[512];
static volatile uint64_t in_bss_untouched[1024];

static void anonymous(void)
{
	char *p;
	int fd;

	region("anon_private", "anonymous", filled(16 * page, ANON), 16 * page,
	       "address");
	holes_region("anon_holes", "anonymous",
		     map(16 * page, RW, ANON, -1, 0));
	region("anon_shared", "shared",
	       filled(16 * page, MAP_SHARED | MAP_ANONYMOUS), 16 * page,
	       "address");

	fd = memfd_create("holes", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, 16 * page))
		die("memfd");
	holes_region("memfd_holes", "memfd",
		     map(16 * page, RW, MAP_SHARED, fd, 0));

	p = filled(4 * page, ANON);
	if (mprotect(p, 4 * page, PROT_NONE))
		die("mprotect");
	region("prot_none", "anonymous", p, 4 * page, "address");

	p = filled(4 * page, ANON);
	if (madvise(p, 4 * page, MADV_DONTDUMP))
		die("madvise");
	region("dontdump", "anonymous", p, 4 * page, "address");

	/* Not readable if there are protection keys (pkeys(7)). */
	p = filled(page, ANON);
	if (mprotect(p, page, PROT_EXEC))
		die("mprotect");
	region("exec_only", "anonymous", p, page, "address");

	p = filled(page, ANON);
	if (mprotect(p, page, PROT_READ))
		die("mprotect");
	region("read_only", "anonymous", p, page, "address");

	region("reserved", "anonymous",
	       map(64 << 20, RW, ANON | MAP_NORESERVE, -1, 0), 64 << 20,
	       "zero");

	/*
	 * A guard page inside a VMA: access is SIGSEGV although maps says rw
	 * (madvise(2), MADV_GUARD_INSTALL).
	 */
	p = filled(3 * page, ANON);
	if (!madvise(p + page, page, MADV_GUARD_INSTALL)) {
		region("guard_before", "anonymous", p, page, "address");
		region("guard", "guard", p + page, page, "unknown");
		region("guard_after", "anonymous", p + 2 * page, page,
		       "address");
	} else if (errno != EINVAL) {
		die("madvise");
	}
}

static void files(void)
{
	char path[PATH_MAX], *p;
	size_t short_size = page + page / 2 + 4;
	int fd;

	fd = make_file("private", 4 * page, path);
	p = map(3 * page, RW, MAP_PRIVATE, fd, page);
	fill(p + page, page);
	file_region("file_private_clean", "file-private", p, page, path, page);
	region("file_private_dirty", "file-private", p + page, page, "address");
	file_region("file_private_clean_2", "file-private", p + 2 * page, page,
		    path, 3 * page);

	fd = make_file("shared", 4 * page, path);
	p = map(2 * page, RW, MAP_SHARED, fd, 2 * page);
	fill(p, page);
	region("file_shared_written", "file-shared", p, page, "address");
	file_region("file_shared", "file-shared", p, 2 * page, path, 2 * page);

	/*
	 * Written through the file, so that the private pages stay clean and
	 * only the page cache has their contents.
	 */
	fd = make_file("deleted", 0, path);
	p = map(4 * page, PROT_READ, MAP_PRIVATE, fd, 0);
	for (size_t i = 0; i < 4 * page; i += 8) {
		uint64_t word = (uintptr_t)(p + i) ^ seed;

		if (pwrite(fd, &word, 8, i) != 8)
			die("pwrite");
	}
	if (unlink(path))
		die("unlink");
	close(fd);
	region("file_deleted", "file-deleted", p, 4 * page, "address");

	fd = make_file("deleted_shared", 4 * page, path);
	p = map(4 * page, RW, MAP_SHARED, fd, 0);
	fill(p, 4 * page);
	if (unlink(path))
		die("unlink");
	close(fd);
	region("file_deleted_shared", "file-deleted", p, 4 * page, "address");

	/* The rest of the last page reads as zero, later pages are SIGBUS. */
	fd = make_file("short", short_size, path);
	p = map(4 * page, RW, MAP_PRIVATE, fd, 0);
	file_region("file_short", "file-private", p, short_size, path, 0);
	region("file_short_tail", "file-private", p + short_size,
	       2 * page - short_size, "zero");
	region("file_short_past_eof", "past-eof", p + 2 * page, 2 * page,
	       "unknown");
}

static void sysv(void)
{
	int id = shmget(IPC_PRIVATE, 4 * page, 0600);
	void *p;

	if (id < 0)
		die("shmget");
	p = shmat(id, NULL, 0);
	shmctl(id, IPC_RMID, NULL);
	if (p == (void *)-1)
		die("shmat");
	fill(p, 4 * page);
	region("sysv_shm", "sysv", p, 4 * page, "address");
}

/* The program's own text, the most common file mapping. */
static int text(struct dl_phdr_info *info, size_t size, void *arg)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	(void)size;
	(void)arg;
	if (n < 0)
		die("readlink");
	path[n] = '\0';
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];

		if (ph->p_type == PT_LOAD && ph->p_flags & PF_X)
			file_region("exe_text", "file-private",
				    (void *)(info->dlpi_addr + ph->p_vaddr),
				    ph->p_filesz, path, ph->p_offset);
	}
	return 1; /* the first object is the program, dl_iterate_phdr(3) */
}

static void *asleep(void *argument)
{
	for (;;)
		pause();
	return argument;
}

int main(int argc, char **argv)
{
	volatile uint64_t on_stack[512];
	char buf[64], *heap;
	pthread_t thread;

	if (argc != 2 && argc != 3) {
		fprintf(stderr, "usage: memory DIR [THREADS]\n");
		return 2;
	}
	target_init();
	for (int i = 0; i < (argc == 3 ? atoi(argv[2]) : 0); i++)
		if (pthread_create(&thread, NULL, asleep, NULL))
			die("pthread_create");
	regions_begin(argv[1]);
	anonymous();
	files();
	sysv();
	dl_iterate_phdr(text, NULL);

	heap = sbrk(4 * page);
	if (heap == (void *)-1)
		die("sbrk");
	heap = (char *)(((uintptr_t)heap + 7) & -8);
	fill(heap, 3 * page);
	region("heap", "heap", heap, 3 * page, "address");
	fill(on_stack, sizeof(on_stack));
	region("stack", "stack", on_stack, sizeof(on_stack), "address");
	fill(in_data, sizeof(in_data));
	region("data", "data", in_data, sizeof(in_data), "address");
	fill(in_bss, sizeof(in_bss));
	region("bss", "bss", in_bss, sizeof(in_bss), "address");
	region("bss_untouched", "bss", in_bss_untouched,
	       sizeof(in_bss_untouched), "zero");
	printf("]}\n");

	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
