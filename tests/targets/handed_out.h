/* Memory that other subsystems of the kernel give to a process or control. */
#ifndef HANDED_OUT_H
#define HANDED_OUT_H

#include "regions.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <net/ethernet.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Linux 6.6, uapi/linux/userfaultfd.h. */
struct poison {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define UFFDIO_POISON_6_6 _IOWR(UFFDIO, 0x08, struct poison)
#define UFFD_FEATURE_POISON_6_6 (1 << 14)
#define UFFD_FEATURE_WP_UNPOPULATED_6_4 (1 << 13)

static void must(int result, const char *what)
{
	if (result < 0)
		die(what);
}

/* False if the kernel does not have it. */
static int can(int result, const char *what)
{
	if (result >= 0)
		return 1;
	if (errno != EINVAL && errno != ENOSYS)
		die(what);
	return 0;
}

static void devices(void)
{
	struct io_uring_params ring = { 0 };
	struct tpacket_req packets = { page, 2, page / 2, 4 };
	struct perf_event_attr event = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(event),
		.config = PERF_COUNT_SW_CPU_CLOCK,
	};
	char *p;
	int fd;

	/* 64 entries of 64 bytes, which the program may write until it submits them. */
	fd = syscall(SYS_io_uring_setup, 64, &ring);
	must(fd, "io_uring_setup");
	p = mmap(NULL, page, RW, MAP_SHARED, fd, IORING_OFF_SQES);
	if (p == MAP_FAILED)
		die("io_uring");
	fill(p, page);
	region("io_uring_entries", "device", p, page, "address");
	region("io_uring_rings", "device",
	       map(page, RW, MAP_SHARED, fd, IORING_OFF_SQ_RING), page, "unknown");

	/* Nothing arrives: no interface sends this protocol. */
	fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_LOOP));
	must(fd, "AF_PACKET");
	must(setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &packets, sizeof(packets)), "ring");
	region("packet_ring", "device", written(2 * page, MAP_SHARED, fd), 2 * page, "address");

	/* VM_IO and VM_PFNMAP (kernel/events/core.c, map_range). */
	fd = syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
	must(fd, "perf_event_open");
	region("perf_ring", "io", apart(3 * page, RW, MAP_SHARED, fd), 3 * page, "unknown");

	fd = syscall(SYS_memfd_secret, 0);
	if (!can(fd, "memfd_secret"))
		return;
	must(ftruncate(fd, 4 * page), "ftruncate");
	region("secret", "secret", written(2 * page, MAP_SHARED, fd), 2 * page, "unknown");
	p = written(2 * page, MAP_SHARED, fd);
	must(madvise(p, 2 * page, MADV_DODUMP), "MADV_DODUMP");
	region("secret_in_core", "secret", p, 2 * page, "unknown");
}

/* -1 if the kernel does not have these features. */
static int register_uffd(char *start, size_t size, uint64_t features, uint64_t mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	struct uffdio_register range = { { (uintptr_t)start, size }, mode, 0 };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	must(fd, "userfaultfd");
	if (!can(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API"))
		return -1;
	must(ioctl(fd, UFFDIO_REGISTER, &range), "UFFDIO_REGISTER");
	return fd;
}

/* Three pages with data, and one that its handler does not supply. */
static void poisoned(void)
{
	char *p = apart(4 * page, RW, ANON, -1);
	struct poison poison = { .range = { (uintptr_t)p + 3 * page, page } };
	int fd = register_uffd(p, 4 * page, UFFD_FEATURE_POISON_6_6,
			       UFFDIO_REGISTER_MODE_MISSING);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++) {
		uint64_t words[page / 8];
		struct uffdio_copy copy = { .dst = (uintptr_t)p + i * page,
					    .src = (uintptr_t)words, .len = page };

		for (size_t n = 0; n < page / 8; n++)
			words[n] = (copy.dst + n * 8) ^ seed;
		must(ioctl(fd, UFFDIO_COPY, &copy), "UFFDIO_COPY");
	}
	must(ioctl(fd, UFFDIO_POISON_6_6, &poison), "UFFDIO_POISON");
	region("uffd", "anonymous", p, 3 * page, "address");
	region("uffd_poison", "poison", p + 3 * page, page, "unknown");
}

/* Two pages that must not be written unnoticed.  One was never written: it has a marker too. */
static void protected(void)
{
	char *p = apart(2 * page, RW, ANON, -1);
	struct uffdio_writeprotect protect = {
		.range = { (uintptr_t)p, 2 * page },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int fd = register_uffd(p, 2 * page, UFFD_FEATURE_WP_UNPOPULATED_6_4,
			       UFFDIO_REGISTER_MODE_WP);

	if (fd < 0)
		return;
	fill(p, page);
	must(ioctl(fd, UFFDIO_WRITEPROTECT, &protect), "UFFDIO_WRITEPROTECT");
	region("uffd_protected", "anonymous", p, page, "address");
	region("uffd_protected_rest", "anonymous", p + page, page, "zero");
}

#endif
