/*
 * arena PAGES
 *
 * Maps an arena for BPF programs (BPF_MAP_TYPE_ARENA) and writes its own address into two of its
 * pages.  Prints {"pid": P, "start": ADDRESS, "pages": [N, M]}, or {"pid": P, "errno": E}.
 */
#include "target.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/mman.h>

#ifndef BPF_F_MMAPABLE
#define BPF_F_MMAPABLE (1U << 10)
#endif
#define MAP_TYPE_ARENA 33
#define PAGE           4096

int main(int argc, char **argv)
{
	union bpf_attr attr = {0};
	size_t pages = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
	static const size_t written[] = {0, 77};
	char buf[64];
	char *start;
	int fd;

	if (pages < 78)
		return 2;
	target_init();
	attr.map_type = MAP_TYPE_ARENA;
	attr.max_entries = pages;
	attr.map_flags = BPF_F_MMAPABLE;
	fd = syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
	start = fd < 0 ? MAP_FAILED
		       : mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (start == MAP_FAILED) {
		printf("{\"pid\": %d, \"errno\": %d}\n", getpid(), errno);
	} else {
		for (int i = 0; i < 2; i++) {
			char **word = (char **)(start + written[i] * PAGE);
			*word = (char *)word;
		}
		printf("{\"pid\": %d, \"start\": \"%p\", \"pages\": [0, 77]}\n", getpid(), start);
	}
	while (next_command(buf, sizeof(buf)))
		printf("{}\n");
	return 0;
}
