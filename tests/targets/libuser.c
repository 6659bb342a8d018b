/*
 * libuser LIBRARY
 *
 * Sleeps in a function of a library, which another function of it calls, which main calls.  Prints
 * {"pid": PID}.
 */
#include "target.h"

#include <dlfcn.h>

int main(int argc, char **argv)
{
	int (*in_library)(int (*)(void));
	int (*sleep_in_library)(void);
	void *library;

	target_init();
	library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	if (!library)
		die("dlopen");
	*(void **)&in_library = dlsym(library, "in_library");
	*(void **)&sleep_in_library = dlsym(library, "sleep_in_library");
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	return in_library(sleep_in_library);
}
