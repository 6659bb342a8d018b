/*
 * kinds DIR
 *
 * The kinds of memory that ordinary programs seldom have; memory.c has the others.
 * DIR must be on a tmpfs, and one huge page of 2 MiB for each hugetlb region must be free.
 *
 * Besides its regions it prints {"thp": BOOL}: whether there is a transparent huge page.  Kinds for
 * which the kernel is too old are left out.
 *
 * Answers "fork" with {"child": PID}, a child that sleeps, and "swap" with {"swapped": N}: how many
 * pages of private memory are swapped out, after all that should be are.
 */
#include "handed_out.h"

#include <sys/auxv.h>
#include <sys/shm.h>

#define MAP_DROPPABLE_6_11 0x08 /* uapi/linux/mman.h; the value was unused before */
#define SYS_mseal_6_10 462
#define HUGE_PAGE (2UL << 20)
#define SHARED_ANON (MAP_SHARED | MAP_ANONYMOUS)

static char *thp, *swapped, *swapped_shared, *swapped_file;

static void set_name(char *start, size_t size)
{
	/* CONFIG_ANON_VMA_NAME */
	can(prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, size, "own name"), "PR_SET_VMA");
}

static void anonymous(void)
{
	char *p, *q;

	p = written(2 * page, ANON, -1);
	must(madvise(p, 2 * page, MADV_WIPEONFORK), "MADV_WIPEONFORK");
	region("wipe_on_fork", "anonymous", p, 2 * page, "address");

	p = written(2 * page, ANON, -1);
	if (can(syscall(SYS_mseal_6_10, p, 2 * page, 0), "mseal"))
		region("sealed", "anonymous", p, 2 * page, "address");

	region("grows_down", "anonymous",
	       written(2 * page, ANON | MAP_GROWSDOWN, -1), 2 * page, "address");
	/* May be dropped at any time, and so is in no core (mm/mmap.c, do_mmap). */
	p = mmap(NULL, page, RW, MAP_DROPPABLE_6_11 | MAP_ANONYMOUS, -1, 0);
	if (p != MAP_FAILED) {
		fill(p, page);
		region("droppable", "anonymous", p, page, "unknown");
	} else if (errno != EINVAL) {
		die("MAP_DROPPABLE");
	}

	p = apart(6 * page, RW, ANON, -1);
	fill(p, 2 * page);
	region("hole_at_end", "anonymous", p, 2 * page, "address");
	region("hole_at_end_hole", "anonymous", p + 2 * page, 4 * page, "zero");
	holes_region("anon_shared_holes", "shared", apart(16 * page, RW, SHARED_ANON, -1));

	p = written(page, ANON, -1);
	set_name(p, page);
	region("named_private", "anonymous", p, page, "address");
	p = written(page, SHARED_ANON, -1);
	set_name(p, page);
	region("named_shared", "shared", p, page, "address");

	/* Mappings that keep vma->anon_vma although nothing in them is written (any more). */
	p = written(page, ANON, -1);
	must(madvise(p, page, MADV_DONTNEED), "MADV_DONTNEED");
	region("emptied", "anonymous", p, page, "zero");
	p = apart(2 * page, RW, ANON, -1);
	fill(p, page);
	must(mprotect(p + page, page, PROT_READ), "mprotect");
	region("split", "anonymous", p, page, "address");
	region("split_rest", "anonymous", p + page, page, "zero");
	p = apart(2 * page, RW, ANON, -1);
	if (can(madvise(p, page, MADV_GUARD_INSTALL), "MADV_GUARD_INSTALL")) {
		region("guard_alone", "guard", p, page, "unknown");
		region("guard_alone_rest", "anonymous", p + page, page, "zero");
	}

	p = apart(3 * HUGE_PAGE, RW, ANON, -1);
	q = (char *)(((uintptr_t)p + HUGE_PAGE - 1) & -HUGE_PAGE);
	must(madvise(q, HUGE_PAGE, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	(void)*(volatile char *)q;
	region("huge_zero_page", "anonymous", q, HUGE_PAGE, "zero");
	p = apart(3 * HUGE_PAGE, RW, ANON, -1);
	q = (char *)(((uintptr_t)p + HUGE_PAGE - 1) & -HUGE_PAGE);
	must(madvise(q, HUGE_PAGE, MADV_HUGEPAGE), "MADV_HUGEPAGE");
	fill(q, HUGE_PAGE);
	thp = q;
	region("thp", "anonymous", q, HUGE_PAGE, "address");

	swapped = written(4 * page, ANON, -1);
	region("swapped", "anonymous", swapped, 4 * page, "address");
	swapped_shared = written(4 * page, SHARED_ANON, -1);
	region("swapped_shared", "shared", swapped_shared, 4 * page, "address");
}

static void huge(void)
{
	region("hugetlb_private", "hugetlb",
	       filled(HUGE_PAGE, ANON | MAP_HUGETLB), HUGE_PAGE, "address");
	region("hugetlb_shared", "hugetlb",
	       filled(HUGE_PAGE, SHARED_ANON | MAP_HUGETLB), HUGE_PAGE, "address");
}

/* The part of a file mapping that is left when the file shrinks to size bytes. */
static void shrunk(const char *name, int flags, int fd)
{
	size_t size = page + 96;
	char text[64], *p = written(4 * page, flags, fd);

	must(ftruncate(fd, size), "ftruncate");
	region(name, "shrunk", p, flags == MAP_SHARED ? size : 2 * page, "address");
	snprintf(text, sizeof(text), "%s_tail", name);
	/* The rest of its last page becomes zeros, but not in a private copy of the page. */
	if (flags == MAP_SHARED)
		region(text, "shrunk", p + size, 2 * page - size, "zero");
	snprintf(text, sizeof(text), "%s_past_eof", name);
	region(text, "past-eof", p + 2 * page, 2 * page, "unknown");
}

static void files(void)
{
	char path[PATH_MAX], *p;
	int fd;

	fd = make_file("tmpfs_holes", 0, path);
	must(ftruncate(fd, 16 * page), "ftruncate");
	holes_region("tmpfs_holes", "file-shared", apart(16 * page, RW, MAP_SHARED, fd));
	fd = make_file("tmpfs_private", 4 * page, path);
	p = apart(4 * page, RW, MAP_PRIVATE, fd);
	file_region("tmpfs_private", "file-private", p, 4 * page, path, 0);
	fd = make_file("guard_in_file", 2 * page, path);
	p = apart(2 * page, RW, MAP_PRIVATE, fd);
	if (can(madvise(p, page, MADV_GUARD_INSTALL), "MADV_GUARD_INSTALL")) {
		region("guard_in_file", "guard", p, page, "unknown");
		file_region("guard_in_file_rest", "file-private", p + page, page, path, page);
	}
	fd = make_file("swapped_file", 4 * page, path);
	swapped_file = apart(4 * page, RW, MAP_PRIVATE, fd);
	file_region("swapped_file", "file-private", swapped_file, 4 * page, path, 0);

	shrunk("shrunk_private", MAP_PRIVATE, make_file("shrunk_private", 4 * page, path));
	shrunk("shrunk_shared", MAP_SHARED, make_file("shrunk_shared", 4 * page, path));
	fd = memfd_create("shrunk", 0);
	must(ftruncate(fd, 4 * page), "ftruncate");
	shrunk("shrunk_memfd", MAP_SHARED, fd);
	region("empty_file_past_eof", "past-eof",
	       apart(page, RW, MAP_PRIVATE, make_file("empty", 0, path)), page, "unknown");

	fd = open("/dev/zero", O_RDWR);
	must(fd, "/dev/zero");
	p = apart(2 * page, RW, MAP_PRIVATE, fd);
	fill(p, page);
	region("dev_zero_private", "file-private", p, page, "address");
	region("dev_zero_private_rest", "file-private", p + page, page, "zero");
	p = apart(2 * page, RW, MAP_SHARED, fd);
	fill(p, page);
	region("dev_zero_shared", "shared", p, page, "address");
	region("dev_zero_shared_rest", "shared", p + page, page, "zero");
}

/* Attached read-only, and written through a second attachment. */
static void sysv(void)
{
	int id = shmget(IPC_PRIVATE, 2 * page, 0600);
	volatile uint64_t *from, *to;

	must(id, "shmget");
	to = shmat(id, NULL, 0);
	from = shmat(id, NULL, SHM_RDONLY);
	shmctl(id, IPC_RMID, NULL);
	if (to == (void *)-1 || from == (void *)-1)
		die("shmat");
	for (size_t i = 0; i < 2 * page / 8; i++)
		to[i] = (uintptr_t)&from[i] ^ seed;
	shmdt((void *)to);
	/* VM_SHARED is for what can be written, so to the filter this is a private mapping of a
	   file, and of one with mode 0777 (ipc/shm.c, newseg): its first page is in any core. */
	region("sysv_read_only", "sysv", from, page, "address");
	region("sysv_read_only_rest", "sysv", (char *)from + page, page, "address");
}

/* The kB of the mapping at start under key in /proc/self/smaps. */
static long smaps(const char *start, const char *key)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long first, last;
	char line[PATH_MAX], c;
	long kilobytes = -1;
	int here = 0;

	if (!f)
		die("smaps");
	while (kilobytes < 0 && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %c", &first, &last, &c) == 3)
			here = (uintptr_t)start >= first && (uintptr_t)start < last;
		else if (here && !strncmp(line, key, strlen(key)))
			kilobytes = strtol(line + strlen(key), NULL, 10);
	}
	fclose(f);
	return kilobytes;
}

static void vdso(void)
{
	char path[PATH_MAX], *start = (char *)getauxval(AT_SYSINFO_EHDR);
	size_t size = smaps(start, "Size:") * 1024;
	int fd = make_file("vdso", 0, path);

	if (write(fd, start, size) != (ssize_t)size)
		die("vdso");
	file_region("vdso", "special", start, size, path, 0);
}

static void swap_out(void)
{
	char *all[] = { swapped, swapped_shared, swapped_file };
	long private;

	(void)*(volatile char *)swapped_file;
	for (int i = 0; i < 3; i++)
		while (smaps(all[i], "Swap:") < (long)(4 * page / 1024)) {
			if (madvise(all[i], 4 * page, MADV_PAGEOUT))
				die("MADV_PAGEOUT");
			usleep(1000); /* pages may still be on their way to the list */
		}
	private = smaps(swapped, "Swap:");
	printf("{\"swapped\": %ld}\n", private * 1024 / (long)page);
}

static void fork_child(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		target_init();
		for (;;)
			pause();
	}
	printf("{\"child\": %d}\n", child);
}

int main(int argc, char **argv)
{
	char buf[64];

	if (argc != 2) {
		fprintf(stderr, "usage: kinds DIR\n");
		return 2;
	}
	target_init();
	regions_begin(argv[1]);
	anonymous();
	huge();
	files();
	sysv();
	devices();
	poisoned();
	protected();
	vdso();
	printf("], \"thp\": %s}\n", smaps(thp, "AnonHugePages:") > 0 ? "true" : "false");

	while (next_command(buf, sizeof(buf)))
		if (!strcmp(buf, "fork"))
			fork_child();
		else if (!strcmp(buf, "swap"))
			swap_out();
	return 0;
}
