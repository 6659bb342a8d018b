/* A library for libuser.c: a debugger must unwind through it to find main. */
#include <unistd.h>

int in_library(int (*next)(void))
{
	int result = next();

	return result + 1;
}

int sleep_in_library(void)
{
	for (;;)
		pause();
	return 0;
}
