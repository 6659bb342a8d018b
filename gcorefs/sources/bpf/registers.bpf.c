// SPDX-License-Identifier: GPL-2.0
/*
 * The registers of each thread of a process on x86-64, as the kernel keeps them while the thread
 * does not run: a row for each thread, and no thread is touched.
 *
 * A row is a struct head, the saved registers, the saved area of XSAVE and a struct guard.  The
 * guards in front and behind tell whether the thread ran in between (gcorefs/arch/x86_saved.py
 * reads a row).  A row is written in pieces from the stack: two readers at one time would share the
 * value of a map.  See mappings.bpf.c about the structs.
 */
#define SEC(name) __attribute__((section(name), used))
#define KERNEL __attribute__((preserve_access_index))
#define FOUND(field) __builtin_preserve_field_info(field, 2)
#define OFFSET(field) __builtin_preserve_field_info(field, 0)
#define SIZE(type) __builtin_preserve_type_info(*(type *)0, 1)

typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

struct upid {
	int nr;
} KERNEL;

struct pid {
	u32 level;
	struct upid numbers[1];
} KERNEL;

struct desc_struct {
	u16 limit0, base0;
} KERNEL;

union fpregs_state {
	char area;
};

struct fpstate {
	u32 size;
	u64 user_xfeatures;
	union fpregs_state regs;
} KERNEL;

struct fpu {
	struct fpstate *fpstate, *__task_fpstate;
} KERNEL;

struct thread_struct {
	struct desc_struct tls_array[3];
	unsigned long fsbase, gsbase;
	u16 es, ds, fsindex, gsindex;
	u32 pkru;
	void *io_bitmap;
} KERNEL;

struct sched_entity {
	u64 sum_exec_runtime;
} KERNEL;

typedef struct {
	unsigned long sig[1];
} sigset_t;

struct sigpending {
	sigset_t signal;
} KERNEL;

struct thread_info {
	u32 status;
} KERNEL;

struct task_struct {
	struct thread_info thread_info;
	u32 __state;
	int on_cpu, exit_state;
	unsigned long nvcsw, nivcsw, jobctl;
	struct sched_entity se;
	struct pid *thread_pid;
	sigset_t blocked;
	struct sigpending pending;
	struct thread_struct thread;
} KERNEL;

/* Before Linux 6.16 it was a part of the thread_struct; now it follows the task_struct. */
struct thread_struct___before {
	struct fpu fpu;
} KERNEL;
struct task_struct___before {
	struct thread_struct___before thread;
} KERNEL;

struct seq_file;
struct pt_regs;

struct bpf_iter_meta {
	struct seq_file *seq;
} KERNEL;

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
} KERNEL;

/* include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER */
static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*bpf_seq_write)(struct seq_file *seq, const void *data, u32 length) = (void *)127;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static struct pt_regs *(*bpf_task_pt_regs)(struct task_struct *task) = (void *)175;

#define REGISTERS 168
#define PIECE 128
#define MOST_PIECES 96

struct guard {
	u64 on_cpu, state, switches, runtime;
};

struct head {
	struct guard guard;
	u32 tid, status, pkru, xsave;
	u64 jobctl, blocked, pending;
	u64 fsbase, gsbase;
	u16 es, ds, fs, gs;
	u64 user_xfeatures, io_bitmap;
	u64 tls[3];
};

static __attribute__((always_inline)) void look(struct task_struct *task, struct guard *guard)
{
	guard->on_cpu = task->on_cpu;
	guard->state = task->__state;
	guard->switches = task->nvcsw + task->nivcsw;
	guard->runtime = task->se.sum_exec_runtime;
}

static __attribute__((always_inline)) void *fpu_of(struct task_struct *task)
{
	struct task_struct___before *before = (void *)task;

	if (FOUND(before->thread.fpu))
		return (void *)task + OFFSET(before->thread.fpu);
	return (void *)task + SIZE(struct task_struct);
}

SEC("iter/task")
int gcorefs_registers(struct bpf_iter__task *context)
{
	struct task_struct *task = context->task;
	struct seq_file *seq = context->meta->seq;
	struct fpstate *state = 0;
	struct fpu *fpu;
	struct pid *pid;
	void *saved;
	char registers[REGISTERS], piece[PIECE];
	struct head head;
	u32 level, size = 0, rest, i;

	if (!task || task->exit_state)
		return 0;
	__builtin_memset(&head, 0, sizeof(head));
	look(task, &head.guard);
	asm volatile("" ::: "memory");

	pid = task->thread_pid;
	if (!pid)
		return 0;
	level = bpf_get_current_task_btf()->thread_pid->level;
	probe_read_kernel(&head.tid, sizeof(head.tid),
			  (void *)pid + OFFSET(pid->numbers) + level * SIZE(struct upid));
	head.status = task->thread_info.status;
	head.pkru = task->thread.pkru;
	head.jobctl = task->jobctl;
	head.blocked = task->blocked.sig[0];
	head.pending = task->pending.signal.sig[0];
	head.fsbase = task->thread.fsbase;
	head.gsbase = task->thread.gsbase;
	head.es = task->thread.es;
	head.ds = task->thread.ds;
	head.fs = task->thread.fsindex;
	head.gs = task->thread.gsindex;
	head.io_bitmap = (u64)task->thread.io_bitmap;
	probe_read_kernel(head.tls, sizeof(head.tls), &task->thread.tls_array);

	fpu = fpu_of(task);
	/* In a thread that runs a guest of KVM, fpstate is the guest's. */
	if (FOUND(fpu->__task_fpstate))
		probe_read_kernel(&state, sizeof(state), (void *)fpu + OFFSET(fpu->__task_fpstate));
	if (!state)
		probe_read_kernel(&state, sizeof(state), (void *)fpu + OFFSET(fpu->fpstate));
	probe_read_kernel(&size, sizeof(size), (void *)state + OFFSET(state->size));
	probe_read_kernel(&head.user_xfeatures, sizeof(u64),
			  (void *)state + OFFSET(state->user_xfeatures));
	if (size > PIECE * MOST_PIECES)
		size = 0;
	head.xsave = size;
	saved = (void *)state + OFFSET(state->regs);
	bpf_seq_write(seq, &head, sizeof(head));

	probe_read_kernel(registers, REGISTERS, bpf_task_pt_regs(task));
	bpf_seq_write(seq, registers, REGISTERS);
	for (i = 0; i < MOST_PIECES; i++) {
		if ((i + 1) * PIECE > size)
			break;
		probe_read_kernel(piece, PIECE, saved + i * PIECE);
		bpf_seq_write(seq, piece, PIECE);
	}
	rest = size & (PIECE - 1);
	if (rest) {
		probe_read_kernel(piece, rest, saved + (size - rest));
		bpf_seq_write(seq, piece, rest);
	}
	asm volatile("" ::: "memory");
	look(task, &head.guard);
	bpf_seq_write(seq, &head.guard, sizeof(head.guard));
	return 0;
}

char _license[] SEC("license") = "GPL";
