/* rseq: prints the distance of libc's struct rseq from the thread pointer, and ends. */
#include <stdio.h>
#include <sys/rseq.h>

int main(void)
{
	printf("%td\n", __rseq_offset);
	return 0;
}
