/*
 * registers32 NTHREADS spin|blocked
 *
 * The small sibling of registers.c for 32 bits: threads that hold a canary in every register of
 * i386, in a loop (spin) or asleep in pause(2) (blocked).
 */
#include "target.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#define SYS_PAUSE 29

/* Offsets the asm uses; checked against the struct. */
#define O_VEC   0
#define O_X87   256
#define O_GPR   384
#define O_FLAGS 408
#define O_MXCSR 412
#define O_FCW   416
#define O_AVX   420
#define O_SPIN  424
#define O_READY 428
#define O_ESP   432

/* eax holds the address of the struct itself. */
static const char *const gpr_names[] = { "ebx", "ecx", "edx", "esi", "edi", "ebp" };
#define GPRS 6

struct canaries {
	uint8_t vec[8][32];
	struct { uint64_t mantissa; uint16_t exponent; uint8_t unused[6]; } x87[8];
	uint32_t gpr[GPRS];
	uint32_t flags;
	uint32_t mxcsr;
	uint32_t fcw;
	uint32_t avx;
	uint32_t spin;
	atomic_uint ready;
	uint32_t esp;
	uint16_t seg[6];
	pid_t tid;
} __attribute__((aligned(64)));

#define CHECK(off, member) \
	_Static_assert(off == offsetof(struct canaries, member), #member)
CHECK(O_VEC, vec);
CHECK(O_X87, x87);
CHECK(O_GPR, gpr);
CHECK(O_FLAGS, flags);
CHECK(O_MXCSR, mxcsr);
CHECK(O_FCW, fcw);
CHECK(O_AVX, avx);
CHECK(O_SPIN, spin);
CHECK(O_READY, ready);
CHECK(O_ESP, esp);

_Noreturn void hold_canaries(struct canaries *c);
extern const char spin_start[], spin_end[], blocked_start[], blocked_end[];

#define STR_(x) #x
#define STR(x) STR_(x)
#define C(off) STR(off) "(%eax)"
#define ALL "0,1,2,3,4,5,6,7"

asm(".text\n"
    ".globl hold_canaries, spin_start, spin_end, blocked_start, blocked_end\n"
    ".type hold_canaries, @function\n"
    "hold_canaries:\n"
    "	mov	4(%esp), %eax\n"
    "	mov	%esp, " C(O_ESP) "\n"
    "	cmpl	$0, " C(O_AVX) "\n"
    "	je	1f\n"
    ".irp n, " ALL "\n"
    "	vmovdqu	" STR(O_VEC) "+32*\\n(%eax), %ymm\\n\n"
    ".endr\n"
    "	jmp	2f\n"
    "1:\n"
    ".irp n, " ALL "\n"
    "	movdqu	" STR(O_VEC) "+32*\\n(%eax), %xmm\\n\n"
    ".endr\n"
    "2:	fninit\n"
    "	fldcw	" C(O_FCW) "\n"
    ".irp n, 7,6,5,4,3,2,1,0\n" /* the last one pushed is ST0 */
    "	fldt	" STR(O_X87) "+16*\\n(%eax)\n"
    ".endr\n"
    "	ldmxcsr	" C(O_MXCSR) "\n"
    ".set i, 0\n"
    ".irp r, ebx,ecx,edx,esi,edi,ebp\n"
    "	mov	" STR(O_GPR) "+4*i(%eax), %\\r\n"
    "	.set i, i+1\n"
    ".endr\n"
    "	cmpl	$0, " C(O_SPIN) "\n"
    "	je	3f\n"
    "	pushl	" C(O_FLAGS) "\n"
    "	popfl\n"
    /* If another thread sees this store, eip is in the loop. */
    "	movl	$1, " C(O_READY) "\n"
    "spin_start:\n"
    "	pause\n"
    "	jmp	spin_start\n"
    "spin_end:\n"
    "3:	pushl	" C(O_FLAGS) "\n"
    "	popfl\n"
    "	movl	$1, " C(O_READY) "\n"
    "blocked_start:\n"
    "	mov	$" STR(SYS_PAUSE) ", %eax\n"
    "	int	$0x80\n"
    "	jmp	blocked_start\n"
    "blocked_end:\n"
    ".size hold_canaries, . - hold_canaries\n");
_Static_assert(SYS_pause == SYS_PAUSE, "the number in the asm");

static int has_avx(void)
{
	uint32_t a, b, c, d, lo, hi;

	__cpuid(1, a, b, c, d);
	if (!(c & bit_OSXSAVE) || !(c & bit_AVX))
		return 0;
	asm("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (lo & 6) == 6;
}

/* As in registers.c, which gives the reason for each value. */
static void fill(struct canaries *c, unsigned t)
{
	uint64_t n = (uint64_t)t * 1024, word;

	for (int r = 0; r < 8; r++)
		for (int j = 0; j < 4; j++) {
			word = canary(n++);
			memcpy(&c->vec[r][8 * j], &word, 8);
		}
	for (int r = 0; r < 8; r++) {
		c->x87[r].mantissa = canary(n++) | UINT64_C(1) << 63;
		c->x87[r].exponent = 0x3c00 + (8 * t + r) % 0x800;
	}
	for (int r = 0; r < GPRS; r++)
		c->gpr[r] = canary(n++) >> 32;
	c->flags = 0x602 | (t & 1) | (t & 2) << 1 | (t & 4) << 2 | (t & 8) << 3;
	c->fcw = 0x7f | (uint16_t[]){ 0, 0x200, 0x300 }[t % 3] | (1 + t / 3 % 3) << 10;
	c->mxcsr = 0x9f80 | (t & 0x3f) | (1 + t % 3) << 13;
	c->avx = has_avx();
}

static void *holder(void *arg)
{
	struct canaries *c = arg;

	c->tid = gettid();
	asm("mov %%cs, %0" : "=m"(c->seg[0]));
	asm("mov %%ss, %0" : "=m"(c->seg[1]));
	asm("mov %%ds, %0" : "=m"(c->seg[2]));
	asm("mov %%es, %0" : "=m"(c->seg[3]));
	asm("mov %%fs, %0" : "=m"(c->seg[4]));
	asm("mov %%gs, %0" : "=m"(c->seg[5]));
	hold_canaries(c);
}

static void print_bytes(const void *p, int n)
{
	putchar('"');
	for (int i = 0; i < n; i++)
		printf("%02x", ((const uint8_t *)p)[i]);
	putchar('"');
}

static void print_thread(const struct canaries *c)
{
	static const char *const segs[] = { "cs", "ss", "ds", "es", "fs", "gs" };

	printf("{\"tid\": %d, \"regs\": {", c->tid);
	for (int r = 0; r < GPRS; r++)
		printf("\"%s\": \"0x%x\", ", gpr_names[r], c->gpr[r]);
	for (int s = 0; s < 6; s++)
		printf("\"%s\": \"0x%x\", ", segs[s], c->seg[s]);
	if (c->spin)
		printf("\"eax\": \"%p\", ", (void *)c);
	printf("\"esp\": \"0x%x\", \"eflags\": \"0x%x\", \"orig_eax\": \"0x%x\"}, ",
	       c->esp, c->flags, c->spin ? UINT32_MAX : SYS_PAUSE);
	printf("\"eip_start\": \"%p\", \"eip_end\": \"%p\", \"x87\": [",
	       c->spin ? spin_start : blocked_start, c->spin ? spin_end : blocked_end);
	for (int r = 0; r < 8; r++) {
		printf(r ? ", " : "");
		print_bytes(&c->x87[r], 10);
	}
	printf("], \"fcw\": \"0x%x\", \"mxcsr\": \"0x%x\", \"vectors\": [", c->fcw, c->mxcsr);
	for (int r = 0; r < 8; r++) {
		printf(r ? ", " : "");
		print_bytes(c->vec[r], c->avx ? 32 : 16);
	}
	printf("]}");
}

int main(int argc, char **argv)
{
	struct canaries *all;
	char buf[64];
	int n, spin;

	if (argc != 3 || (n = atoi(argv[1])) < 0 ||
	    ((spin = !strcmp(argv[2], "spin")) == 0 && strcmp(argv[2], "blocked"))) {
		fprintf(stderr, "usage: registers32 NTHREADS spin|blocked\n");
		return 2;
	}
	target_init();
	all = aligned_alloc(64, (n + 1) * sizeof(*all));
	if (!all)
		die("aligned_alloc");
	memset(all, 0, (n + 1) * sizeof(*all));
	for (int t = 0; t < n; t++) {
		pthread_t thread;

		fill(&all[t], t);
		all[t].spin = spin;
		if (pthread_create(&thread, NULL, holder, &all[t]))
			die("pthread_create");
	}
	for (int t = 0; t < n; t++) {
		while (!atomic_load(&all[t].ready))
			usleep(1000);
		if (!spin)
			wait_asleep_in(all[t].tid, SYS_PAUSE);
	}
	printf("{\"pid\": %d, \"threads\": [", getpid());
	for (int t = 0; t < n; t++) {
		printf(t ? ", " : "");
		print_thread(&all[t]);
	}
	printf("]}\n");
	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
