/*
 * notified plain|killable
 *
 * A child under a seccomp filter that asks its parent about getppid(2) (seccomp_unotify(2)); the
 * child has called it.  With "killable", only a fatal signal ends its wait after the parent has got
 * the call (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).
 *
 * Prints {"pid": CHILD}, and {"effects": N} each time that the parent has got the call and done its
 * work.  "reply" lets the child go on and prints {"replied": ERRNO}.
 */
#include "target.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

static _Noreturn void ask(int to_parent, unsigned long flags)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(rules) / sizeof(*rules), rules };
	int listener;

	target_init();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("prctl");
	listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			   SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &program);
	if (listener < 0)
		die("seccomp");
	if (write(to_parent, &listener, sizeof(listener)) != sizeof(listener))
		die("write");
	getppid();
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	int killable = argc > 1 && !strcmp(argv[1], "killable");
	struct seccomp_notif heard = { 0 };
	struct pollfd ready[2];
	int ends[2], number, effects = 0;
	char line[64];
	pid_t child;

	target_init();
	if (pipe(ends))
		die("pipe");
	child = fork();
	if (child < 0)
		die("fork");
	if (child == 0)
		ask(ends[1], killable ? SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV : 0);
	if (read(ends[0], &number, sizeof(number)) != sizeof(number))
		die("read");
	ready[0].fd = syscall(SYS_pidfd_getfd, syscall(SYS_pidfd_open, child, 0), number, 0);
	if (ready[0].fd < 0)
		die("pidfd_getfd");
	ready[1].fd = STDIN_FILENO;
	ready[0].events = ready[1].events = POLLIN;
	setvbuf(stdin, NULL, _IONBF, 0);
	printf("{\"pid\": %d}\n", child);
	fflush(stdout);
	while (poll(ready, 2, -1) > 0) {
		if (ready[0].revents & POLLIN) {
			memset(&heard, 0, sizeof(heard));
			if (ioctl(ready[0].fd, SECCOMP_IOCTL_NOTIF_RECV, &heard) == 0)
				printf("{\"effects\": %d}\n", ++effects);
		}
		if (ready[1].revents) {
			struct seccomp_notif_resp reply = { .id = heard.id };

			if (!next_command(line, sizeof(line)))
				return 0;
			errno = 0;
			ioctl(ready[0].fd, SECCOMP_IOCTL_NOTIF_SEND, &reply);
			printf("{\"replied\": %d}\n", errno);
		}
		fflush(stdout);
	}
	return 0;
}
