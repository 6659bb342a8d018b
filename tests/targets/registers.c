/*
 * registers NTHREADS spin|blocked
 *
 * Threads that hold a canary in every register that user space can load, either in
 * a two-instruction loop (spin) or asleep in pause(2) (blocked).
 */
#include "target.h"

#include <asm/prctl.h>
#include <cpuid.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

/* The registers that the asm below may load (struct canaries.has). */
#define HAS_AVX    1
#define HAS_AVX512 2
#define HAS_PKU    4
#define SPIN       8

/* Offsets the asm uses; checked against the struct. */
#define O_VEC    0
#define O_X87    2048
#define O_OPMASK 2176
#define O_GPR    2240
#define O_FLAGS  2360
#define O_RSP    2368
#define O_MXCSR  2376
#define O_PKRU   2380
#define O_HAS    2384
#define O_READY  2388
#define O_FCW    2392

static const char *const gpr_names[] = {
	"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
	"r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};
#define GPRS 15

struct canaries {
	uint8_t vec[32][64];
	struct { uint64_t mantissa; uint16_t exponent; } x87[8];
	uint64_t opmask[8];
	uint64_t gpr[GPRS];
	uint64_t flags;
	uint64_t rsp;
	uint32_t mxcsr;
	uint32_t pkru;
	uint32_t has;
	atomic_uint ready;
	uint16_t fcw;
	uint16_t seg[6];
	pid_t tid;
	uint64_t fs_base;
	uint64_t gs_base;
} __attribute__((aligned(64)));

#define CHECK(off, member) \
	_Static_assert(off == offsetof(struct canaries, member), #member)
CHECK(O_VEC, vec);
CHECK(O_X87, x87);
CHECK(O_OPMASK, opmask);
CHECK(O_GPR, gpr);
CHECK(O_FLAGS, flags);
CHECK(O_RSP, rsp);
CHECK(O_MXCSR, mxcsr);
CHECK(O_PKRU, pkru);
CHECK(O_HAS, has);
CHECK(O_READY, ready);
CHECK(O_FCW, fcw);

/*
 * Not C, because the ABI gives rbp, rsp and the callee-saved registers to the
 * compiler.  The GS base points at the thread's struct canaries, so no general
 * register is needed as a pointer (GS is free for the program in the x86-64
 * psABI, 3.4.6).  The caller's registers are pushed with CFI, so that an
 * unwinder still gets through although rbp is no frame pointer here.
 *
 * In this order nothing overwrites a register that is already loaded: WRPKRU needs
 * eax/ecx/edx (SDM vol. 2), the tests need the flags.
 */
_Noreturn void hold_canaries(void);
extern const char spin_start[], spin_end[], blocked_start[], blocked_end[];

#define STR_(x) #x
#define STR(x) STR_(x)
#define GS(off) "%gs:" STR(off)
#define ALL32 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15," \
	      "16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
#define ALL16 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define ALL8  "0,1,2,3,4,5,6,7"

asm(".text\n"
    ".globl hold_canaries, spin_start, spin_end, blocked_start, blocked_end\n"
    ".type hold_canaries, @function\n"
    "hold_canaries:\n"
    ".cfi_startproc\n"
    ".irp r, rbp,rbx,r12,r13,r14,r15\n"
    "	push	%\\r\n"
    "	.cfi_adjust_cfa_offset 8\n"
    "	.cfi_rel_offset \\r, 0\n"
    ".endr\n"
    "	mov	%rsp, " GS(O_RSP) "\n"

    "	testl	$" STR(HAS_PKU) ", " GS(O_HAS) "\n"
    "	jz	1f\n"
    "	mov	" GS(O_PKRU) ", %eax\n"
    "	xor	%ecx, %ecx\n"
    "	xor	%edx, %edx\n"
    "	wrpkru\n"
    "1:	testl	$" STR(HAS_AVX512) ", " GS(O_HAS) "\n"
    "	jz	2f\n"
    ".irp n, " ALL32 "\n"
    "	vmovdqu64 " GS(O_VEC) "+64*\\n, %zmm\\n\n"
    ".endr\n"
    ".irp n, " ALL8 "\n"
    "	kmovq	" GS(O_OPMASK) "+8*\\n, %k\\n\n"
    ".endr\n"
    "	jmp	4f\n"
    "2:	testl	$" STR(HAS_AVX) ", " GS(O_HAS) "\n"
    "	jz	3f\n"
    ".irp n, " ALL16 "\n"
    "	vmovdqu	" GS(O_VEC) "+64*\\n, %ymm\\n\n"
    ".endr\n"
    "	jmp	4f\n"
    "3:\n"
    ".irp n, " ALL16 "\n"
    "	movdqu	" GS(O_VEC) "+64*\\n, %xmm\\n\n"
    ".endr\n"

    "4:	fninit\n"
    "	fldcw	" GS(O_FCW) "\n"
    ".irp n, 7,6,5,4,3,2,1,0\n" /* the last one pushed is ST0 */
    "	fldt	" GS(O_X87) "+16*\\n\n"
    ".endr\n"
    "	ldmxcsr	" GS(O_MXCSR) "\n"

    ".set i, 0\n"
    ".irp r, rax,rbx,rcx,rdx,rsi,rdi,rbp,r8,r9,r10,r11,r12,r13,r14,r15\n"
    "	mov	" GS(O_GPR) "+8*i, %\\r\n"
    "	.set i, i+1\n"
    ".endr\n"

    "	testl	$" STR(SPIN) ", " GS(O_HAS) "\n"
    "	jz	5f\n"
    "	pushq	" GS(O_FLAGS) "\n"
    "	popfq\n"
    /* If another thread sees this store, rip is in the loop. */
    "	movl	$1, " GS(O_READY) "\n"
    "spin_start:\n"
    "	pause\n"
    "	jmp	spin_start\n"
    "spin_end:\n"

    "5:	pushq	" GS(O_FLAGS) "\n"
    "	popfq\n"
    "	movl	$1, " GS(O_READY) "\n"
    /* pause(2) has no argument, so the argument registers keep canaries. */
    "blocked_start:\n"
    "	mov	$34, %eax\n"
    "	syscall\n"
    "	jmp	blocked_start\n"
    "blocked_end:\n"
    ".cfi_endproc\n"
    ".size hold_canaries, . - hold_canaries\n");
_Static_assert(SYS_pause == 34, "the number in the asm");

static uint64_t xcr0;
static uint32_t has;
static int vec_bytes = 16, vec_count = 16;

static void find_features(void)
{
	uint32_t a, b, c, d, lo, hi;

	__cpuid(1, a, b, c, d);
	if (c & bit_OSXSAVE) {
		asm("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
		xcr0 = (uint64_t)hi << 32 | lo;
	}
	if ((c & bit_AVX) && (xcr0 & 0x6) == 0x6) {
		has |= HAS_AVX;
		vec_bytes = 32;
	}
	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
		return;
	/* KMOVQ is AVX512BW; the state bits are SDM vol. 1, 13.3. */
	if ((b & bit_AVX512F) && (b & bit_AVX512BW) && (xcr0 & 0xe6) == 0xe6) {
		has |= HAS_AVX512;
		vec_bytes = 64;
		vec_count = 32;
	}
	if (c & bit_OSPKE)
		has |= HAS_PKU;
}

static void fill(struct canaries *c, unsigned t)
{
	uint64_t n = (uint64_t)t * 1024, word;

	for (int r = 0; r < 32; r++)
		for (int j = 0; j < 8; j++) {
			word = canary(n++);
			memcpy(&c->vec[r][8 * j], &word, 8);
		}
	for (int r = 0; r < 8; r++) {
		/* Bit 63 makes it a normal number (SDM vol. 1, 8.2.2). */
		c->x87[r].mantissa = canary(n++) | UINT64_C(1) << 63;
		c->x87[r].exponent = 0x3c00 + (8 * t + r) % 0x800;
	}
	for (int r = 0; r < 8; r++)
		c->opmask[r] = canary(n++);
	for (int r = 0; r < GPRS; r++)
		c->gpr[r] = canary(n++);

	/* IF and the fixed bit 1 are always set; CF PF AF ZF SF DF OF vary. */
	c->flags = 0x202 | (t & 1) | (t & 2) << 1 | (t & 4) << 2 |
		   (t & 8) << 3 | (t & 16) << 3 | 0x400 | (t & 32) << 6;
	/* All exceptions masked; precision varies, rounding is never 0. */
	c->fcw = 0x7f | (uint16_t[]){ 0, 0x200, 0x300 }[t % 3] |
		 (1 + t / 3 % 3) << 10;
	/* All masked; FTZ set, the sticky flags, DAZ and rounding vary. */
	c->mxcsr = 0x9f80 | (t & 0x3f) | (t >> 6 & 1) << 6 |
		   (1 + t % 3) << 13;
	/* Key 0 covers all our memory and must stay open. */
	c->pkru = (uint32_t)canary(n++) & ~3u;
	c->has = has;
}

static void *holder(void *arg)
{
	struct canaries *c = arg;

	c->tid = gettid();
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, c) ||
	    syscall(SYS_arch_prctl, ARCH_GET_FS, &c->fs_base) ||
	    syscall(SYS_arch_prctl, ARCH_GET_GS, &c->gs_base))
		die("arch_prctl");
	asm("mov %%cs, %0" : "=m"(c->seg[0]));
	asm("mov %%ss, %0" : "=m"(c->seg[1]));
	asm("mov %%ds, %0" : "=m"(c->seg[2]));
	asm("mov %%es, %0" : "=m"(c->seg[3]));
	asm("mov %%fs, %0" : "=m"(c->seg[4]));
	asm("mov %%gs, %0" : "=m"(c->seg[5]));
	hold_canaries();
}

static void print_bytes(const void *p, int n)
{
	putchar('"');
	for (int i = 0; i < n; i++)
		printf("%02x", ((const uint8_t *)p)[i]);
	putchar('"');
}

static void print_thread(const struct canaries *c, int spin)
{
	static const char *const segs[] = { "cs", "ss", "ds", "es", "fs", "gs" };

	printf("{\"tid\": %d, \"regs\": {", c->tid);
	for (int r = 0; r < GPRS; r++) {
		/* SYSCALL overwrites rcx and r11, the result rax (SDM vol. 2). */
		if (!spin && (r == 0 || r == 2 || r == 10))
			continue;
		printf("\"%s\": \"0x%" PRIx64 "\", ", gpr_names[r], c->gpr[r]);
	}
	for (int s = 0; s < 6; s++)
		printf("\"%s\": \"0x%x\", ", segs[s], c->seg[s]);
	/* -1 is "not in a system call" (arch/x86/entry/entry_64.S). */
	printf("\"rsp\": \"0x%" PRIx64 "\", \"eflags\": \"0x%" PRIx64 "\", "
	       "\"orig_rax\": \"0x%" PRIx64 "\"}, ",
	       c->rsp, c->flags, spin ? UINT64_MAX : SYS_pause);
	printf("\"rip_start\": \"%p\", \"rip_end\": \"%p\", ",
	       spin ? spin_start : blocked_start,
	       spin ? spin_end : blocked_end);
	printf("\"fs_base\": \"0x%" PRIx64 "\", \"gs_base\": \"0x%" PRIx64 "\", ",
	       c->fs_base, c->gs_base);

	printf("\"x87\": [");
	for (int r = 0; r < 8; r++) {
		printf(r ? ", " : "");
		print_bytes(&c->x87[r], 10);
	}
	/* Eight pushes bring TOP back to 0 and leave every register valid. */
	printf("], \"fcw\": \"0x%x\", \"fsw\": \"0x0\", \"ftw\": \"0xff\", "
	       "\"mxcsr\": \"0x%x\", \"vectors\": [", c->fcw, c->mxcsr);
	for (int r = 0; r < vec_count; r++) {
		printf(r ? ", " : "");
		print_bytes(c->vec[r], vec_bytes);
	}
	printf("], \"opmasks\": [");
	for (int r = 0; r < (has & HAS_AVX512 ? 8 : 0); r++)
		printf("%s\"0x%" PRIx64 "\"", r ? ", " : "", c->opmask[r]);
	if (has & HAS_PKU)
		printf("], \"pkru\": \"0x%x\"}", c->pkru);
	else
		printf("], \"pkru\": null}");
}

int main(int argc, char **argv)
{
	/* By bit of XCR0 (SDM vol. 1, 13.1). */
	static const char *const features[] = {
		"x87", "sse", "avx", "bndregs", "bndcsr", "opmask",
		"zmm_hi256", "hi16_zmm", "pt", "pkru", "pasid", "cet_u",
		"cet_s", "hdc", "uintr", "lbr", "hwp", "xtilecfg",
		"xtiledata", "apx",
	};
	char buf[64];
	int n, spin;
	uint64_t fs_base;
	struct canaries *all;
	const char *sep = "";

	if (argc != 3 || (n = atoi(argv[1])) < 0 ||
	    ((spin = !strcmp(argv[2], "spin")) == 0 &&
	     strcmp(argv[2], "blocked"))) {
		fprintf(stderr, "usage: registers NTHREADS spin|blocked\n");
		return 2;
	}
	target_init();
	find_features();
	if (spin)
		has |= SPIN;

	all = aligned_alloc(64, (n + 1) * sizeof(*all));
	if (!all)
		die("aligned_alloc");
	memset(all, 0, (n + 1) * sizeof(*all));
	for (int t = 0; t < n; t++) {
		pthread_t thread;

		fill(&all[t], t);
		if (pthread_create(&thread, NULL, holder, &all[t]))
			die("pthread_create");
	}
	for (int t = 0; t < n; t++) {
		while (!atomic_load(&all[t].ready))
			usleep(1000);
		if (!spin)
			wait_asleep_in(all[t].tid, SYS_pause);
	}

	syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_base);
	printf("{\"pid\": %d, \"mode\": \"%s\", \"xcr0\": \"0x%" PRIx64 "\", "
	       "\"xfeatures\": [", getpid(), argv[2], xcr0);
	for (size_t b = 0; b < sizeof(features) / sizeof(*features); b++)
		if (xcr0 >> b & 1) {
			printf("%s\"%s\"", sep, features[b]);
			sep = ", ";
		}
	printf("], \"vector_bytes\": %d, "
	       "\"main\": {\"tid\": %d, \"fs_base\": \"0x%" PRIx64 "\"}, "
	       "\"threads\": [", vec_bytes, gettid(), fs_base);
	for (int t = 0; t < n; t++) {
		printf(t ? ", " : "");
		print_thread(&all[t], spin);
	}
	printf("]}\n");

	while (next_command(buf, sizeof(buf)))
		;
	return 0;
}
