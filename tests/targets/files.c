/*
 * files LIST: maps one page of each file in LIST, which has a NUL after each name.  If a name ends
 * with a slash, it is a directory to enter, so that a path may be longer than PATH_MAX.  Prints
 * {"pid": P, "addresses": [ADDRESS, ...]}.
 */
#include "target.h"

#include <fcntl.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	static char name[4096];
	const char *comma = "";
	size_t size = 0;
	char buf[64];
	FILE *list;
	int c;

	target_init();
	list = argc > 1 ? fopen(argv[1], "re") : NULL;
	if (!list)
		die("list");
	printf("{\"pid\": %d, \"addresses\": [", getpid());
	while ((c = getc(list)) != EOF) {
		void *start;
		int fd;

		name[size++] = (char)c;
		if (c)
			continue;
		if (size > 1 && name[size - 2] == '/') {
			if (chdir(name))
				die(name);
			size = 0;
			continue;
		}
		size = 0;
		fd = open(name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			die(name);
		start = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
		if (start == MAP_FAILED)
			die("mmap");
		close(fd);
		printf("%s\"%p\"", comma, start);
		comma = ", ";
	}
	fclose(list);
	printf("]}\n");
	while (next_command(buf, sizeof(buf)))
		printf("{\"is\": \"here\"}\n");
	return 0;
}
