/* rseq: says how far from the thread pointer libc has struct rseq, and ends. */
#include <stdio.h>
#include <sys/rseq.h>

int main(void)
{
	printf("%td\n", __rseq_offset);
	return 0;
}
