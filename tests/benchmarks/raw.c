/*
 * raw PID START SIZE: read SIZE bytes from START with process_vm_readv(2), 4 MiB at a time into
 * one buffer, and print the seconds that it took.  No stop: the upper limit of any reader.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>

#define CHUNK (4UL << 20)

int main(int argc, char **argv)
{
	struct timespec begin, end;
	char *buffer = aligned_alloc(4096, CHUNK);
	unsigned long start, size;

	if (argc != 4 || !buffer)
		return 2;
	start = strtoul(argv[2], NULL, 0);
	size = strtoul(argv[3], NULL, 0);
	for (unsigned long i = 0; i < CHUNK; i += 4096)
		buffer[i] = 1;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (unsigned long done = 0; done < size; done += CHUNK) {
		unsigned long count = size - done < CHUNK ? size - done : CHUNK;
		struct iovec local = {buffer, count}, remote = {(void *)(start + done), count};

		if (process_vm_readv(atoi(argv[1]), &local, 1, &remote, 1, 0) != (ssize_t)count) {
			perror("process_vm_readv");
			return 1;
		}
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.6f\n", (double)(end.tv_sec - begin.tv_sec) + (end.tv_nsec - begin.tv_nsec) / 1e9);
	return 0;
}
