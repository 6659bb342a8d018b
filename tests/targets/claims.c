/*
 * claims lists NAMESPACES MODULES
 * claims stacks THREADS MIB
 *
 * A program that lies about itself.  "lists": its dynamic linker has so many namespaces with so many
 * modules, each with a name and a dynamic section in pages of their own.  "stacks": so many threads
 * run on stacks of so many MiB, of which hardly a page was ever touched.  First line: {"pid": P}.
 */
#include "target.h"

#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <ucontext.h>

#define NAME 4096
#define SECTION 8192
#define SMALL_STACK (64 << 10)

struct extended {	/* since glibc 2.35: struct r_debug_extended, link.h */
	struct r_debug base;
	struct extended *next;
};

extern ElfW(Dyn) _DYNAMIC[];
static atomic_int arrived, never;

static void *reserve(size_t length)
{
	void *area = mmap(NULL, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (area == MAP_FAILED)
		die("mmap");
	return area;
}

static struct extended *own_list(void)
{
	for (ElfW(Dyn) *entry = _DYNAMIC; entry->d_tag; entry++)
		if (entry->d_tag == DT_DEBUG)
			return (struct extended *)entry->d_un.d_ptr;
	die("DT_DEBUG");
}

static void claim_lists(size_t namespaces, size_t modules)
{
	struct extended *list = reserve(namespaces * sizeof(*list));
	struct link_map *map = reserve(namespaces * modules * sizeof(*map));
	char *pages = reserve(namespaces * modules * (NAME + SECTION));
	struct extended *own = own_list();

	for (size_t i = 0; i < namespaces; i++) {
		list[i].base.r_version = 2;
		list[i].base.r_map = map;
		list[i].next = i + 1 < namespaces ? &list[i + 1] : NULL;
		for (size_t k = 0; k < modules; k++, map++, pages += NAME + SECTION) {
			map->l_name = pages;
			map->l_ld = (ElfW(Dyn) *)(pages + NAME);
			map->l_next = k + 1 < modules ? map + 1 : NULL;
		}
	}
	own->base.r_version = 2;
	own->next = list;
}

static void sleep_for_ever(void)
{
	atomic_fetch_add(&arrived, 1);
	while (!never)
		pause();
}

static void *run_elsewhere(void *stack)
{
	ucontext_t own, other;

	if (getcontext(&other) < 0)
		die("getcontext");
	other.uc_stack.ss_sp = stack;
	other.uc_stack.ss_size = SMALL_STACK;	/* the lowest part of it */
	other.uc_link = NULL;
	makecontext(&other, sleep_for_ever, 0);
	if (swapcontext(&own, &other) < 0)
		die("swapcontext");
	return NULL;
}

static void claim_stacks(int threads, size_t size)
{
	char *stack = reserve(threads * size);
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, SMALL_STACK);
	for (int i = 0; i < threads; i++, stack += size)
		if ((errno = pthread_create(&thread, &small, run_elsewhere, stack)))
			die("pthread_create");
	while (arrived < threads)
		usleep(1000);
}

int main(int argc, char **argv)
{
	target_init();
	if (argc != 4)
		return 1;
	if (!strcmp(argv[1], "lists"))
		claim_lists(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
	else
		claim_stacks(atoi(argv[2]), strtoul(argv[3], NULL, 10) << 20);
	printf("{\"pid\": %d}\n", getpid());
	fflush(stdout);
	pause();
	return 0;
}
