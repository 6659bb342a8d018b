/*
 * identity WORD...
 *
 * Changes its identity word by word, prints its pid, and obeys commands:
 * "try PID FILE" opens the memory of PID, then FILE, and reads that;
 * "open FILE", "read", "splice" and "close" do the same step by step;
 * "ring FILE" opens FILE through io_uring; "exec PROGRAM" executes PROGRAM.
 * Each answer is the errno; 0 if there was none.
 */
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MUST(call) must(call, #call)

static int must(long result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

static void set_groups(char *list)
{
	gid_t groups[8];
	size_t n = 0;

	for (char *word = strtok(list, ","); word; word = strtok(NULL, ","))
		groups[n++] = strtoul(word, NULL, 10);
	MUST(setgroups(n, groups));
}

/* Only the capabilities that we may have: root does not have all of them everywhere. */
static void set_capabilities(const char *text)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	uint64_t effective, permitted, inheritable;

	if (sscanf(text, "%" SCNx64 ",%" SCNx64 ",%" SCNx64, &effective,
		   &permitted, &inheritable) != 3)
		die(text);
	MUST(syscall(SYS_capget, &header, data));
	for (int i = 0; i < 2; i++) {
		data[i].permitted &= permitted >> 32 * i;
		data[i].effective = data[i].permitted & effective >> 32 * i;
		data[i].inheritable = inheritable >> 32 * i;
	}
	MUST(syscall(SYS_capset, &header, data));
}

static void write_file(pid_t pid, const char *name, const char *text)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = MUST(open(path, O_WRONLY));
	MUST(write(fd, text, strlen(text)));
	close(fd);
}

/* A user namespace that maps ids from `first` on to outside ids from `outside` on. */
static void enter_user_namespace(const char *text)
{
	unsigned first, outside, count;
	char map[64], go;
	int ready[2], status;
	pid_t self = getpid(), helper;

	if (sscanf(text, "%u,%u,%u", &first, &outside, &count) != 3)
		die(text);
	snprintf(map, sizeof(map), "%u %u %u\n", first, outside, count);
	MUST(pipe(ready));
	/* Only a process that stays outside may map more than itself (user_namespaces(7)). */
	helper = MUST(fork());
	if (!helper) {
		MUST(read(ready[0], &go, 1));
		write_file(self, "setgroups", "deny");
		write_file(self, "uid_map", map);
		write_file(self, "gid_map", map);
		_exit(0);
	}
	MUST(unshare(CLONE_NEWUSER));
	MUST(write(ready[1], "", 1));
	MUST(waitpid(helper, &status, 0));
	if (status)
		die("map");
	close(ready[0]);
	close(ready[1]);
}

static void join_user_namespace(const char *pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%s/ns/user", pid);
	fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(setns(fd, CLONE_NEWUSER));
	close(fd);
}

static void enter_pid_namespace(void)
{
	int status;
	pid_t child;

	MUST(unshare(CLONE_NEWPID));
	child = MUST(fork());
	if (child) {
		MUST(waitpid(child, &status, 0));
		_exit(WEXITSTATUS(status));
	}
}

/* A domain that forbids little more than every domain does: to trace outside of it. */
static void enter_landlock(void)
{
	struct landlock_ruleset_attr attr = {
		.handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_BLOCK,
	};
	int fd = MUST(syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0));

	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	MUST(syscall(SYS_landlock_restrict_self, fd, 0));
	close(fd);
}

static struct {
	int fd;
	struct io_uring_params params;
	struct io_uring_sqe *sqe;
	char *sq, *cq;
} ring;

static int ring_open(const char *path)
{
	unsigned *tail = (unsigned *)(ring.sq + ring.params.sq_off.tail);
	unsigned *array = (unsigned *)(ring.sq + ring.params.sq_off.array);
	unsigned *head = (unsigned *)(ring.cq + ring.params.cq_off.head);
	struct io_uring_cqe *cqe = (void *)(ring.cq + ring.params.cq_off.cqes);

	memset(ring.sqe, 0, sizeof(*ring.sqe));
	ring.sqe->opcode = IORING_OP_OPENAT;
	ring.sqe->flags = IOSQE_ASYNC; /* by a worker, not by us */
	ring.sqe->fd = AT_FDCWD;
	ring.sqe->addr = (uintptr_t)path;
	ring.sqe->open_flags = O_RDONLY | O_CLOEXEC;
	array[*tail & (ring.params.sq_entries - 1)] = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	MUST(syscall(SYS_io_uring_enter, ring.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0));
	cqe += *head & (ring.params.cq_entries - 1);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return cqe->res;
}

/* A ring with a worker, which has our present credentials. */
static void set_up_ring(void)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED;

	ring.fd = MUST(syscall(SYS_io_uring_setup, 1, &ring.params));
	ring.sq = mmap(NULL, 4096, prot, flags, ring.fd, IORING_OFF_SQ_RING);
	ring.cq = mmap(NULL, 4096, prot, flags, ring.fd, IORING_OFF_CQ_RING);
	ring.sqe = mmap(NULL, 4096, prot, flags, ring.fd, IORING_OFF_SQES);
	if (ring.sq == MAP_FAILED || ring.cq == MAP_FAILED || (void *)ring.sqe == MAP_FAILED)
		die("mmap");
	close(MUST(ring_open("/dev/null")));
}

static void take_on(char *word, char **rest)
{
	unsigned a, b, c;
	char *value = word + strcspn(word, "=") + !!strchr(word, '=');

	if (sscanf(word, "uid=%u,%u,%u", &a, &b, &c) == 3)
		MUST(setresuid(a, b, c));
	else if (sscanf(word, "gid=%u,%u,%u", &a, &b, &c) == 3)
		MUST(setresgid(a, b, c));
	else if (sscanf(word, "fsuid=%u", &a) == 1)
		setfsuid(a);
	else if (sscanf(word, "fsgid=%u", &a) == 1)
		setfsgid(a);
	else if (!strncmp(word, "groups=", 7))
		set_groups(value);
	else if (!strcmp(word, "keep"))
		MUST(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
	else if (!strncmp(word, "caps=", 5))
		set_capabilities(value);
	else if (sscanf(word, "ambient=%u", &a) == 1)
		MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, a, 0, 0));
	else if (sscanf(word, "securebits=%u", &a) == 1)
		MUST(prctl(PR_SET_SECUREBITS, a, 0, 0, 0));
	else if (!strcmp(word, "no_new_privs"))
		MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	else if (sscanf(word, "dumpable=%u", &a) == 1)
		MUST(prctl(PR_SET_DUMPABLE, a, 0, 0, 0));
	else if (!strncmp(word, "userns=", 7))
		enter_user_namespace(value);
	else if (!strncmp(word, "join=", 5))
		join_user_namespace(value);
	else if (!strcmp(word, "pidns"))
		enter_pid_namespace();
	else if (!strcmp(word, "landlock"))
		enter_landlock();
	else if (!strcmp(word, "ring"))
		set_up_ring();
	else if (!strncmp(word, "exec=", 5)) {
		rest[-1] = value;
		MUST(execv(value, rest - 1));
	} else
		die(word);
}

/* Our pid in the pid namespace of /proc. */
static pid_t shown_pid(void)
{
	char text[16] = "";

	MUST(readlink("/proc/self", text, sizeof(text) - 1));
	return atoi(text);
}

/* The errno of the open, or of the first read; 0 if both succeed. */
static int opening(const char *path, int reading)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error = errno;
	char magic[4];

	if (fd < 0)
		return error;
	error = 0;
	if (reading && read(fd, magic, sizeof(magic)) != sizeof(magic))
		error = errno;
	else if (reading && memcmp(magic, "\x7f" "ELF", sizeof(magic)))
		die(path);
	close(fd);
	return error;
}

/* Through the page cache of the inode, which read(2) of our files bypasses. */
static int splicing(int fd)
{
	loff_t offset = 0;
	int ends[2], error = 0;

	MUST(pipe(ends));
	if (splice(fd, &offset, ends[1], NULL, 64, 0) < 0)
		error = errno;
	close(ends[0]);
	close(ends[1]);
	return error;
}

static void obey(const char *command)
{
	static int held = -1;
	char path[4096], memory[64];
	int kernel = 0, ours = 0, fd = held;
	pid_t pid;

	if (sscanf(command, "try %d %4095s", &pid, path) == 2) {
		snprintf(memory, sizeof(memory), "/proc/%d/mem", pid);
		kernel = opening(memory, 0);
		ours = opening(path, 1);
	} else if (sscanf(command, "open %4095s", path) == 1) {
		held = open(path, O_RDONLY | O_CLOEXEC);
		ours = held < 0 ? errno : 0;
	} else if (!strcmp(command, "read")) {
		ours = pread(held, memory, 4, 0) < 0 ? errno : 0;
	} else if (!strcmp(command, "splice")) {
		ours = splicing(held);
	} else if (!strcmp(command, "close")) {
		MUST(close(fd));
	} else if (sscanf(command, "ring %4095s", path) == 1) {
		fd = ring_open(path);
		ours = fd < 0 ? -fd : 0;
		if (fd >= 0)
			close(fd);
	} else if (sscanf(command, "exec %4095s", path) == 1) {
		MUST(execl(path, path, NULL));
	} else {
		die(command);
	}
	printf("{\"kernel\": %d, \"ours\": %d}\n", kernel, ours);
}

int main(int argc, char **argv)
{
	char buf[8192];
	const char *command;

	target_init();
	for (int i = 1; i < argc; i++)
		take_on(argv[i], argv + i + 1);
	printf("{\"pid\": %d}\n", shown_pid());
	while ((command = next_command(buf, sizeof(buf))))
		obey(command);
	return 0;
}
