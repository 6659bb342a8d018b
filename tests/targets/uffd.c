/*
 * uffd: sixteen pages under userfaultfd(2).  The first one is touched; a thread supplies each of the
 * others when somebody needs it, unless that thread is stopped.  Prints {"pid": P, "start": ADDRESS,
 * "pages": 16}.  For "touch N" it reads page N itself and answers {"word": "0x..."}: every page
 * begins with its own address.
 */
#include "target.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGE 4096UL
#define PAGES 16

static int uffd;

static void *bring(void *argument)
{
	static uint64_t page[PAGE / 8];
	struct uffd_msg message;

	while (read(uffd, &message, sizeof(message)) == sizeof(message)) {
		uint64_t address = message.arg.pagefault.address & ~(PAGE - 1);
		struct uffdio_copy copy = {.dst = address, .src = (uint64_t)page, .len = PAGE};

		page[0] = address;
		if (ioctl(uffd, UFFDIO_COPY, &copy))
			die("UFFDIO_COPY");
	}
	return argument;
}

int main(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	volatile char *start;
	pthread_t thread;
	char buf[64];

	target_init();
	start = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uffd = (int)syscall(SYS_userfaultfd, 0);
	if (start == MAP_FAILED || uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		die("userfaultfd");
	range.range.start = (uint64_t)start;
	range.range.len = PAGES * PAGE;
	if (ioctl(uffd, UFFDIO_REGISTER, &range))
		die("UFFDIO_REGISTER");
	if (pthread_create(&thread, NULL, bring, NULL))
		die("pthread_create");
	(void)start[0];
	printf("{\"pid\": %d, \"start\": \"%p\", \"pages\": %d}\n", getpid(), (void *)start, PAGES);
	while (next_command(buf, sizeof(buf))) {
		int page = atoi(buf + strlen("touch "));

		printf("{\"word\": \"0x%" PRIx64 "\"}\n",
		       *(volatile uint64_t *)(start + (size_t)page * PAGE));
	}
	return 0;
}
