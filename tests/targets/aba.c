/*
 * aba OTHER
 *
 * This program and OTHER, its copy with the set-uid bit, by turns.  The command "change" executes the
 * other one.  Each prints {"pid": PID, "is_secret": 0 or 1} when it has begun, and waits for the next
 * command in read(2).  The one with the set-uid bit waits with SECRET as the count, and gives its
 * rights up before it executes the other one.
 *
 * /proc shows the one without them each time as if it had never executed another program: its memory
 * lies at the same addresses, with the same bytes.
 */
#include "target.h"

#include <sys/auxv.h>
#include <sys/personality.h>

#define SECRET 0x5ec2e75e

static char input[64];

static void wait_for_command(size_t count)
{
	if (syscall(SYS_read, 0, input, count) <= 0)
		exit(0);
}

int main(int argc, char **argv)
{
	int is_secret = geteuid() != getuid();
	char *other[] = {argv[1], argv[0], NULL};
	char line[64];

	target_init();
	if (argc != 2)
		return 2;
	if (!is_secret) {
		/* execve(2) of a set-uid program clears it (include/uapi/linux/personality.h). */
		if (!(personality(0xffffffff) & ADDR_NO_RANDOMIZE)) {
			personality(ADDR_NO_RANDOMIZE);
			execv(argv[0], argv);
			die("execv");
		}
		memset((void *)getauxval(AT_RANDOM), 7, 16);
	}
	snprintf(line, sizeof(line), "{\"pid\": %d, \"is_secret\": %d}\n", getpid(), is_secret);
	if (write(1, line, strlen(line)) < 0)
		die("write");
	wait_for_command(is_secret ? SECRET : sizeof(input));
	if (is_secret && setresuid(getuid(), getuid(), getuid()))
		die("setresuid");
	execv(argv[1], other);
	die("execv");
}
