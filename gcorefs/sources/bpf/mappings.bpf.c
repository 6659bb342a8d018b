// SPDX-License-Identifier: GPL-2.0
/*
 * The mappings of one task, without a walk of its page tables: a row for each, as struct row.
 *
 * Each struct here has only the fields that are used.  The loader finds their real places in the
 * BTF of the running kernel (CO-RE, preserve_access_index).  So one object serves every kernel and
 * every 64-bit little-endian machine, and needs no vmlinux.h.
 *
 * The iterator holds the mmap_lock of the process while it calls us (kernel/bpf/task_iter.c,
 * task_vma_seq_get_next).  We only read.
 */
#define SEC(name) __attribute__((section(name), used))
#define KERNEL __attribute__((preserve_access_index))

typedef unsigned long long u64;
typedef unsigned int u32;

struct list_head {
	struct list_head *next, *prev;
} KERNEL;

struct anon_vma {
	struct anon_vma *parent;
	unsigned long num_children;
} KERNEL;

struct vm_area_struct {
	unsigned long vm_start, vm_end, vm_flags;
	struct anon_vma *anon_vma;
	struct list_head anon_vma_chain;
} KERNEL;

struct seq_file;
struct task_struct;

struct bpf_iter_meta {
	struct seq_file *seq;
} KERNEL;

struct bpf_iter__task_vma {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct vm_area_struct *vma;
} KERNEL;

/* include/uapi/linux/bpf.h, ___BPF_FUNC_MAPPER */
static long (*bpf_seq_write)(struct seq_file *seq, const void *data, u32 length) = (void *)127;

/* gcorefs/elfcore/vma_rows.py reads it. */
struct row {
	u64 start, end, vm_flags, anon_vma;
};

enum { NO_ANON_VMA, OWN_ANON_VMA, SHARED_ANON_VMA };

/*
 * Whether another process may map anonymous pages of this mapping: that is so only after a fork.
 *
 * A child of fork(2) is attached to every anon_vma of its parent and gets one of its own, whose
 * parent is the anon_vma of the mapping that it came from (mm/rmap.c, anon_vma_fork).  So a mapping
 * in a child has a chain of two or more, and the anon_vma of a mapping in a parent has a child as
 * long as anybody is attached to that (unlink_anon_vmas).  A root counts itself as its child
 * (anon_vma_prepare).
 */
static int kind_of_anon_vma(struct vm_area_struct *vma)
{
	struct anon_vma *own = vma->anon_vma;

	if (!own)
		return NO_ANON_VMA;
	if (vma->anon_vma_chain.next != vma->anon_vma_chain.prev)
		return SHARED_ANON_VMA;
	return own->num_children > (own->parent == own) ? SHARED_ANON_VMA : OWN_ANON_VMA;
}

SEC("iter/task_vma")
int gcorefs_mappings(struct bpf_iter__task_vma *context)
{
	struct vm_area_struct *vma = context->vma;
	struct row row;

	/* The last call, after all mappings, has none. */
	if (!context->task || !vma)
		return 0;
	row.start = vma->vm_start;
	row.end = vma->vm_end;
	row.vm_flags = vma->vm_flags;
	row.anon_vma = kind_of_anon_vma(vma);
	bpf_seq_write(context->meta->seq, &row, sizeof(row));
	return 0;
}

char _license[] SEC("license") = "GPL";
