/*
 * mixed segment | mixed number
 *
 * A 64-bit program.  One of its threads makes i386's epoll_wait(2) by int $0x80, in a 32-bit code
 * segment (segment) or in the usual one (number).  On a command it prints how many EINTRs it has
 * had: {"interrupted": 0}.
 *
 * Built for 32 bits, `segment` is the opposite: pause(2) by syscall in a 64-bit code segment.
 */
#include "target.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#define PAGE 0x10000000
#define COUNTER (PAGE + 2048)
#define EVENTS (PAGE + 2052)

#ifdef __i386__
/* again: mov $34, %eax; syscall; jmp again */
static const uint8_t code[] = { 0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7 };
#define NR 34
#define SEGMENT 0x33 /* __USER_CS, arch/x86/include/asm/segment.h */
#else
/* again: mov $256, %eax; int $0x80; cmp $-EINTR, %eax; jne again; incl (%rdi); jmp again */
static const uint8_t code[] = {
	0xb8, 0, 1, 0, 0, 0xcd, 0x80, 0x83, 0xf8, 0xfc, 0x75, 0xf4, 0xff, 0x07, 0xeb, 0xf0,
};
#define NR 256
#define SEGMENT 0x23 /* __USER32_CS */
#endif
#define CALL_END (PAGE + 7)

static struct { uint32_t offset; uint16_t segment; } __attribute__((packed)) place = { PAGE, 0 };
static _Atomic pid_t tid;
static long epoll_fd;

static void *jumper(void *arg)
{
	tid = gettid();
#ifdef __i386__
	asm volatile("ljmp *%0" :: "m"(place));
#else
	/* 32-bit code reads by ds, which 64-bit code leaves empty: __USER_DS. */
	asm volatile("mov %[ds], %%ds\n"
		     "mov %[r12], %%r12\n"
		     "mov %[r15], %%r15\n"
		     "test %[far], %[far]\n"
		     "jz 1f\n"
		     "ljmp *%[place]\n"
		     "1: jmp *%[page]\n"
		     :: [ds] "r"(0x2b), [r12] "r"(canary(1)), [r15] "r"(canary(2)), [far] "r"((int)place.segment),
			[place] "m"(place), [page] "r"((long)PAGE), "b"(epoll_fd), "c"((long)EVENTS),
			"d"(1L), "S"(-1L), "D"((long)COUNTER)
		     : "r12", "r15");
#endif
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char buf[64];
	void *page;

	if (argc != 2) {
		fprintf(stderr, "usage: mixed segment|number\n");
		return 2;
	}
	target_init();
	page = mmap((void *)PAGE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	epoll_fd = epoll_create1(0);
	if (page == MAP_FAILED || epoll_fd < 0)
		die("mmap");
	memcpy(page, code, sizeof(code));
	if (!strcmp(argv[1], "segment"))
		place.segment = SEGMENT;
	if (pthread_create(&thread, NULL, jumper, NULL))
		die("pthread_create");
	while (!tid)
		usleep(1000);
	wait_asleep_in(tid, NR);
	printf("{\"pid\": %d, \"tid\": %d, \"regs\": {\"rip\": %d, \"cs\": %d, \"orig_rax\": %d, "
	       "\"rbx\": %ld, \"rcx\": %d, \"r12\": %" PRId64 ", \"r15\": %" PRId64 "}}\n",
	       getpid(), tid, CALL_END, place.segment ? SEGMENT : 0x33, NR, epoll_fd, EVENTS,
	       canary(1), canary(2));
	while (next_command(buf, sizeof(buf)))
		printf("{\"interrupted\": %d}\n", *(volatile int *)COUNTER);
	return 0;
}
