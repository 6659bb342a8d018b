/*
 * mapper: maps and touches memory on command.  Prints {"pid": P}, then obeys one command a line:
 *   map PATH LENGTH SHARED    -> {"start": ADDRESS}
 *   take PID FD LENGTH        -> {"start": ADDRESS}: maps a file that another process has open,
 *                                privately, and never closes it
 *   peek ADDRESS              -> {"word": "0x..."}
 *   poke ADDRESS              -> {"word": "0x..."}: writes its own address there
 *   put ADDRESS WORD          -> {"word": "0x..."}
 *   wait ADDRESS              -> {"tid": T}: starts a thread that reads there
 *   read PATH                 -> {"tid": T}: starts a thread that opens the file and reads a byte
 *   own PID FD                -> {"owned": 1}: gets a file that another process has open
 *   hide ADDRESS LENGTH       -> {"word": "0x0"}: makes it PROT_NONE
 */
#include "target.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>

static volatile uint64_t *waits_for;
static char reads[4096];

static void start_thread(void *(*body)(void *))
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, body, NULL))
		die("pthread_create");
}

static void say_tid(void)
{
	printf("{\"tid\": %ld}\n", syscall(SYS_gettid));
	fflush(stdout);
}

static void *wait_for_page(void *argument)
{
	say_tid();
	(void)*waits_for;
	return argument;
}

static void *read_file(void *argument)
{
	int fd = open(reads, O_RDONLY);
	char byte;

	say_tid();
	if (read(fd, &byte, 1) != 1)
		byte = 0;
	close(fd);
	return argument;
}

static void map(int fd, size_t length, int shared)
{
	void *start;

	if (fd < 0)
		die("open");
	start = mmap(NULL, length, PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
	if (start == MAP_FAILED)
		die("mmap");
	printf("{\"start\": \"%p\"}\n", start);
}

int main(void)
{
	char buf[5000], path[4096];
	uint64_t address, word;
	size_t length;
	int shared, pid, fd;

	target_init();
	printf("{\"pid\": %d}\n", getpid());
	while (next_command(buf, sizeof(buf))) {
		if (sscanf(buf, "map %4095s %zu %d", path, &length, &shared) == 3) {
			/* If it were opened read-only, it would count as private. */
			fd = open(path, shared ? O_RDWR : O_RDONLY);
			map(fd, length, shared);
			close(fd);
		} else if (sscanf(buf, "take %d %d %zu", &pid, &fd, &length) == 3) {
			map((int)syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, pid, 0), fd, 0),
			    length, 0);
		} else if (sscanf(buf, "own %d %d", &pid, &fd) == 2) {
			printf("{\"owned\": %d}\n",
			       syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, pid, 0), fd, 0) >= 0);
		} else if (sscanf(buf, "peek %" SCNx64, &address) == 1) {
			printf("{\"word\": \"0x%" PRIx64 "\"}\n", *(volatile uint64_t *)address);
		} else if (sscanf(buf, "poke %" SCNx64, &address) == 1) {
			*(volatile uint64_t *)address = address;
			printf("{\"word\": \"0x%" PRIx64 "\"}\n", *(volatile uint64_t *)address);
		} else if (sscanf(buf, "put %" SCNx64 " %" SCNx64, &address, &word) == 2) {
			*(volatile uint64_t *)address = word;
			printf("{\"word\": \"0x%" PRIx64 "\"}\n", word);
		} else if (sscanf(buf, "wait %" SCNx64, &address) == 1) {
			waits_for = (uint64_t *)address;
			start_thread(wait_for_page);
		} else if (sscanf(buf, "read %4095s", reads) == 1) {
			start_thread(read_file);
		} else if (sscanf(buf, "hide %" SCNx64 " %zu", &address, &length) == 2) {
			if (mprotect((void *)address, length, PROT_NONE))
				die("mprotect");
			printf("{\"word\": \"0x0\"}\n");
		}
	}
	return 0;
}
