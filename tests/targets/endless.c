/*
 * endless [RANDOM]: its arguments and its environment are 1 GiB each, which is one mapping of zeros
 * (prctl(2), PR_SET_MM_MAP, for which nobody needs a capability).  With RANDOM, a hexadecimal number,
 * its auxiliary vector has that address as AT_RANDOM.  Prints {"pid": P}, and waits.
 */
#include "target.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/mman.h>

#define SIZE (1UL << 30)

/* Fields of /proc/self/stat (proc_pid_stat(5)), counted as there. */
static unsigned long fields[53];

static void read_stat(void)
{
	static char text[4096];
	FILE *file = fopen("/proc/self/stat", "re");
	int number = 3;

	if (!file || !fgets(text, sizeof(text), file))
		die("stat");
	fclose(file);
	for (char *word = strtok(strrchr(text, ')') + 2, " "); word && number < 53;
	     word = strtok(NULL, " "))
		fields[number++] = strtoul(word, NULL, 10);
}

static unsigned long vector[128];

static void set_random(struct prctl_mm_map *map, unsigned long address)
{
	int file = open("/proc/self/auxv", O_RDONLY);
	ssize_t size = file < 0 ? -1 : read(file, vector, sizeof(vector));

	if (size <= 0)
		die("auxv");
	close(file);
	for (size_t i = 0; i < size / sizeof(*vector); i += 2)
		if (vector[i] == AT_RANDOM)
			vector[i + 1] = address;
	map->auxv = (__u64 *)vector;
	map->auxv_size = size;
}

int main(int argc, char **argv)
{
	struct prctl_mm_map map = {.exe_fd = (uint32_t)-1};
	void *start;

	target_init();
	start = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		die("mmap");
	read_stat();
	map.start_code = fields[26];
	map.end_code = fields[27];
	map.start_stack = fields[28];
	map.start_data = fields[45];
	map.end_data = fields[46];
	map.start_brk = fields[47];
	map.brk = (uintptr_t)sbrk(0);
	map.arg_start = map.env_start = (uintptr_t)start;
	map.arg_end = map.env_end = (uintptr_t)start + SIZE;
	if (argc == 2)
		set_random(&map, strtoul(argv[1], NULL, 16));
	if (prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0))
		die("prctl");
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	pause();
	return 0;
}
