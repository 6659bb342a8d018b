/*
 * vectors LENGTH...
 *
 * For aarch64.  A thread for each length of SVE vectors, in bytes; 0 is a thread without SVE.  Each
 * spins in one instruction, with a canary in every register that user space can load.
 */
#include "target.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

#ifndef PR_SVE_SET_VL
#define PR_SVE_SET_VL 50
#endif
#ifndef PR_SET_TAGGED_ADDR_CTRL
#define PR_SET_TAGGED_ADDR_CTRL 55
#define PR_TAGGED_ADDR_ENABLE 1
#endif
#define MOST 256 /* bytes of a vector */
#define ALL32 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define ALL16 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"

struct canaries {
	uint64_t x[31];
	uint64_t sp;
	uint64_t sve;
	uint32_t fpcr, fpsr;
	atomic_uint ready;
	pid_t tid;
	unsigned length;
	uint64_t tls;
	uint8_t p[17][MOST / 8] __attribute__((aligned(64))); /* without gaps; the last one is FFR */
	uint8_t z[32][MOST] __attribute__((aligned(64)));
};

#define CHECK(off, member) _Static_assert(off == offsetof(struct canaries, member), #member)
CHECK(248, sp);
CHECK(256, sve);
CHECK(264, fpcr);
CHECK(268, fpsr);
CHECK(272, ready);
CHECK(320, p);
CHECK(896, z);

_Noreturn void hold_canaries(struct canaries *);
extern const char spin_start[], spin_end[];

asm(".text\n.arch armv8-a+sve\n"
    ".globl hold_canaries, spin_start, spin_end\n"
    ".type hold_canaries, %function\n"
    "hold_canaries:\n"
    "	mov	x1, sp\n	str	x1, [x0, #248]\n"
    "	add	x1, x0, #896\n"
    "	add	x2, x0, #320\n"
    "	ldr	x3, [x0, #256]\n"
    "	cbz	x3, 1f\n"
    "	ldr	p0, [x2, #16, mul vl]\n"
    "	wrffr	p0.b\n"
    ".irp n, " ALL16 "\n	ldr	p\\n, [x2, #\\n, mul vl]\n.endr\n"
    ".irp n, " ALL32 "\n	ldr	z\\n, [x1, #\\n, mul vl]\n.endr\n"
    "	b	2f\n"
    "1:\n"
    ".irp n, " ALL32 "\n	ldr	q\\n, [x1, #16 * \\n]\n.endr\n"
    "2:	ldr	w1, [x0, #264]\n	msr	fpcr, x1\n"
    "	ldr	w1, [x0, #268]\n	msr	fpsr, x1\n"
    "	mov	w1, #1\n"
    "	str	w1, [x0, #272]\n"
    ".irp n, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30\n"
    "	ldr	x\\n, [x0, #8 * \\n]\n.endr\n"
    "	ldr	x0, [x0]\n"
    "spin_start:\n	b	spin_start\n"
    "spin_end:\n"
    ".size hold_canaries, . - hold_canaries\n");

static void *run(void *arg)
{
	struct canaries *c = arg;

	if (c->length && prctl(PR_SVE_SET_VL, c->length) < 0)
		die("PR_SVE_SET_VL");
	if (prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE, 0, 0, 0) < 0)
		die("PR_SET_TAGGED_ADDR_CTRL");
	asm("mrs %0, tpidr_el0" : "=r"(c->tls));
	c->tid = syscall(SYS_gettid);
	hold_canaries(c);
}

static void fill(struct canaries *c, unsigned t, unsigned length)
{
	unsigned i, width = length ? length : 16;
	uint8_t *p = c->p[0], *z = c->z[0];

	c->length = length;
	c->sve = length;
	c->fpcr = 0x00c00000;
	c->fpsr = 0x08000000;
	for (i = 0; i < 31; i++)
		c->x[i] = 0xa000000000000000ull + 0x1000 * t + i;
	for (i = 0; i < 32 * width; i++)
		z[i] = 1 + (i * 7 + t) % 255;
	for (i = 0; i < 17 * width / 8; i++)
		p[i] = 1 + (i * 5 + t) % 255;
	/* FFR has ones, then zeros. */
	for (i = 0; i < width / 8; i++)
		p[16 * width / 8 + i] = i == 0 ? 0x0f : 0;
}

static void hex(const char *name, const uint8_t *from, unsigned size)
{
	unsigned i;

	printf(", \"%s\": \"", name);
	for (i = 0; i < size; i++)
		printf("%02x", from[i]);
	printf("\"");
}

/* It has used the processor since it was ready: so it spins. */
static void wait_until_it_spins(struct canaries *c)
{
	char path[64], line[512];
	unsigned long first = 0, now;
	FILE *f;

	while (!c->ready)
		sched_yield();
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", c->tid);
	do {
		f = fopen(path, "re");
		if (!f || !fgets(line, sizeof(line), f) ||
		    sscanf(strrchr(line, ')'), ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu", &now) != 1)
			die(path);
		fclose(f);
		if (!first)
			first = now + 2;
		sched_yield();
	} while (now < first);
}

int main(int argc, char **argv)
{
	static struct canaries all[16];
	char command[64];
	pthread_t thread;
	int i, n;

	target_init();
	for (i = 1; i < argc && i <= 16; i++) {
		fill(&all[i - 1], i, atoi(argv[i]));
		if (pthread_create(&thread, NULL, run, &all[i - 1]))
			die("pthread_create");
	}
	for (i = 1; i < argc; i++)
		wait_until_it_spins(&all[i - 1]);
	printf("{\"pid\": %d, \"start\": %lu, \"end\": %lu, \"threads\": [", getpid(),
	       (unsigned long)spin_start, (unsigned long)spin_end);
	for (i = 1; i < argc; i++) {
		struct canaries *c = &all[i - 1];
		unsigned width = c->length ? c->length : 16;

		printf("%s{\"tid\": %d, \"length\": %u, \"sp\": %lu, \"tls\": %lu, \"fpcr\": %u, \"fpsr\": %u, \"x\": [",
		       i > 1 ? ", " : "", c->tid, c->length, c->sp, c->tls, c->fpcr, c->fpsr);
		for (n = 0; n < 31; n++)
			printf("%s%lu", n ? ", " : "", c->x[n]);
		printf("]");
		hex("z", c->z[0], 32 * width);
		hex("p", c->p[0], c->length ? 17 * width / 8 : 0);
		printf("}");
	}
	printf("]}\n");
	while (next_command(command, sizeof(command)))
		;
	return 0;
}
