/*
 * fuse FILE
 *
 * One thread reads FILE and waits for its server; another works.  See account.h for the
 * commands: the report has the read only if it was answered.
 */
#include "account.h"

#include <fcntl.h>
#include <poll.h>

#define SIZE 4096

static int fd;

static void worker(struct work *w)
{
	while (!ending) {
		poll(NULL, 0, 1);
		tally(w, "ok");
	}
}

static void reader(struct work *w)
{
	char buffer[SIZE];
	ssize_t n = pread(fd, buffer, SIZE, 0);

	if (n < 0)
		tally(w, strerrorname_np(errno));
	else if (n == SIZE && buffer[0] == 'A' && !memcmp(buffer, buffer + 1, SIZE - 1))
		tally(w, "ok");
	else
		tally(w, "another content");
}

static struct work works[] = {
	{ "worker", worker, 0, 0, 0, 0, {} }, { "reader", reader, 1, 0, 0, 0, {} },
};

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	target_init();
	fd = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die(argv[1]);
	start_works(works, 2);
	printf("{\"pid\": %d, \"reader\": %d}\n", getpid(), works[1].tid);
	serve(works, 2);
	return 0;
}
