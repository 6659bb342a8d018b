/*
 * denying ERRNO PID PROGRAM ARGUMENT...: runs PROGRAM under a seccomp filter, as in a container, that
 * answers process_vm_readv(2) with ERRNO: for every process (PID 0), or for one.
 */
#include "target.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

int main(int argc, char **argv)
{
	unsigned int answer, pid;

	if (argc < 4)
		return 2;
	answer = SECCOMP_RET_ERRNO | atoi(argv[1]);
	pid = atoi(argv[2]);

	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, pid, 0, !pid ? 0 : 1),
		BPF_STMT(BPF_RET | BPF_K, answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(*filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
	execv(argv[3], argv + 3);
	die(argv[3]);
}
