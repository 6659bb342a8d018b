/*
 * forker THREADS CHILDREN: so many threads wait in epoll_wait(2), and one that was made after them
 * has so many children, which wait for their death.  SIGCHLD is ignored by default, so nothing ever
 * interrupts the wait.
 *   {"pid": pid, "forker": tid, "children": [pid, ...]}
 * The command "interrupted" asks how many of the threads have seen an EINTR:
 *   {"interrupted": count}
 * The command "thread" makes one more such thread, and answers when it is about to wait:
 *   {"made": 1}
 */
#include "target.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/wait.h>

static atomic_int interrupted;
static sem_t ready;
static int count;

static void *wait_for_nothing(void *unused)
{
	struct epoll_event event;
	sigset_t set;
	int poll = epoll_create1(0);

	if (poll < 0)
		die("epoll_create1");
	sigemptyset(&set);
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	sem_post(&ready);
	while (epoll_wait(poll, &event, 1, -1) < 0) {
		if (errno != EINTR)
			die("epoll_wait");
		interrupted++;
	}
	return unused;
}

static void *fork_and_wait(void *unused)
{
	printf("{\"pid\": %d, \"forker\": %d, \"children\": [", getpid(), (int)gettid());
	for (int i = 0; i < count; i++) {
		pid_t child;

		fflush(stdout);
		child = fork();
		if (child < 0)
			die("fork");
		if (child == 0) {
			target_init();
			for (;;)
				pause();
		}
		printf("%s%d", i ? ", " : "", child);
	}
	printf("]}\n");
	fflush(stdout);
	sem_post(&ready);
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	char line[64];
	pthread_t thread;
	sigset_t set;

	if (argc != 3)
		return 2;
	target_init();
	count = atoi(argv[2]);
	sem_init(&ready, 0, 0);
	for (int i = atoi(argv[1]); i > 0; i--)
		if (pthread_create(&thread, NULL, wait_for_nothing, NULL))
			die("pthread_create");
	for (int i = atoi(argv[1]); i > 0; i--)
		sem_wait(&ready);
	if (pthread_create(&thread, NULL, fork_and_wait, NULL))
		die("pthread_create");
	sem_wait(&ready);
	/* So another thread is woken for it. */
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	while (next_command(line, sizeof line)) {
		if (strcmp(line, "thread")) {
			printf("{\"interrupted\": %d}\n", interrupted);
			continue;
		}
		if (pthread_create(&thread, NULL, wait_for_nothing, NULL))
			die("pthread_create");
		sem_wait(&ready);
		printf("{\"made\": 1}\n");
	}
	return 0;
}
