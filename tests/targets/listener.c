/*
 * listener DIR
 *
 * Decides about each open(2) on the file system of DIR (fanotify(7), FAN_OPEN_PERM), as virus
 * scanners do: it allows all.  Prints {"pid": PID}; answers "count" with {"opens": N}.
 */
#include "target.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/fanotify.h>

int main(int argc, char **argv)
{
	struct fanotify_event_metadata event;
	struct pollfd ready[2];
	int opens = 0;
	char line[64];

	target_init();
	ready[0].fd = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
	if (argc < 2 || ready[0].fd < 0 ||
	    fanotify_mark(ready[0].fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN_PERM, AT_FDCWD, argv[1]))
		die("fanotify");
	ready[1].fd = STDIN_FILENO;
	ready[0].events = ready[1].events = POLLIN;
	setvbuf(stdin, NULL, _IONBF, 0);
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	while (poll(ready, 2, -1) > 0) {
		if (ready[0].revents) {
			struct fanotify_response answer = { .response = FAN_ALLOW };

			/* One event for each read: the buffer has no room for more. */
			if (read(ready[0].fd, &event, sizeof(event)) != sizeof(event))
				die("read");
			answer.fd = event.fd;
			if (write(ready[0].fd, &answer, sizeof(answer)) != sizeof(answer))
				die("write");
			close(event.fd);
			opens++;
		}
		if (ready[1].revents) {
			if (!next_command(line, sizeof(line)))
				return 0;
			printf("{\"opens\": %d}\n", opens);
			fflush(stdout);
		}
	}
	return 0;
}
