/* How soon does the kernel tell that a process was killed? By its socket, its pidfd, and by words on robust futex lists of
 * its threads. And what is true once it has told?
 *
 *     cc -O2 -pthread -o death death.c && ./death [MIB] [KILLS]
 *
 * A child touches MIB of memory (8) and runs two threads: one that only sleeps, as a thread kept for its death would, and
 * one that works: it counts in shared memory without a pause. Each has a word on its robust list. The parent waits for one
 * of four things, kills the child, and takes the time; in turn, KILLS times (100) each. After a word has told it looks
 * whether the worker went on counting. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct shared {
    struct robust_list_head head[2];
    struct robust_list entry[2];
    _Atomic uint32_t word[2];
    _Alignas(64) _Atomic uint64_t count;
    _Atomic uint32_t ready;
};
static struct shared *shared;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

/* Puts the word on this thread's list, in place of glibc's list, which a probe can do without. */
static void hold(int which) {
    struct robust_list_head *head = &shared->head[which];
    head->list.next = &shared->entry[which];
    shared->entry[which].next = &head->list;
    head->futex_offset = (char *)&shared->word[which] - (char *)&shared->entry[which];
    head->list_op_pending = NULL;
    shared->word[which] = (uint32_t)syscall(SYS_gettid) | FUTEX_WAITERS;
    syscall(SYS_set_robust_list, head, sizeof *head);
    atomic_fetch_add(&shared->ready, 1);
}

static void *keep(void *none) {
    hold(0);
    for (;;) pause();
    return none;
}

static void *work(void *none) {
    hold(1);
    for (;;) atomic_store_explicit(&shared->count, shared->count + 1, memory_order_relaxed);
    return none;
}

static void child(size_t bytes) {
    memset(shared, 0, sizeof *shared);
    if (bytes) {
        char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(memory, bytes, MADV_NOHUGEPAGE);
        for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    }
    pthread_t thread;
    pthread_create(&thread, NULL, keep, NULL);
    pthread_create(&thread, NULL, work, NULL);
    while (shared->ready < 2) usleep(100);
    shared->ready = 3;
    for (;;) pause();
}

static void wait_word(int which) {
    uint32_t value;
    while (!((value = shared->word[which]) & FUTEX_OWNER_DIED))
        syscall(SYS_futex, &shared->word[which], FUTEX_WAIT, value, NULL, NULL, 0);
}

static int what;
static int fd;
static double told;
static uint64_t count_then;

static void *wait_for_it(void *none) {
    if (what < 2) {
        wait_word(what);
    } else {
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN | POLLRDHUP};
        poll(&poll_fd, 1, -1);
    }
    told = now_us();
    count_then = shared->count;
    return none;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static _Atomic uint32_t told_count;

static void *wait_beside(void *word) {
    uint32_t value = *(_Atomic uint32_t *)word;
    syscall(SYS_futex, word, FUTEX_WAIT, value, &(struct timespec){.tv_nsec = 300000000}, NULL, 0);
    if (shared->word[0] & FUTEX_OWNER_DIED && now_us() - told < 100000) told_count++;
    return NULL;
}

/* One word that three clients share: whom does its owner's death wake? And if one of them moves the others first, through
 * a mapping that it can only read? */
static void share(int moves) {
    static _Atomic uint32_t *elsewhere;
    elsewhere = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    /* A shared anonymous mapping, mapped once more. */
    _Atomic uint32_t *read_only = mremap(shared, 0, 4096, MREMAP_MAYMOVE);
    mprotect(read_only, 4096, PROT_READ);
    uint32_t *word = (uint32_t *)((char *)read_only + ((char *)&shared->word[0] - (char *)shared));
    shared->ready = 0;
    pid_t pid = fork();
    if (pid == 0) child(0);
    while (shared->ready < 3) usleep(200);
    pthread_t threads[3];
    for (int at = 0; at < 3; at++) pthread_create(&threads[at], NULL, wait_beside, word);
    usleep(20000);
    long moved = moves ? syscall(SYS_futex, word, FUTEX_REQUEUE, 0, 10L, elsewhere, 0) : 0;
    told_count = 0;
    told = now_us();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    for (int at = 0; at < 3; at++) pthread_join(threads[at], NULL);
    printf("three wait on one word, %ld of them moved away through a read-only mapping: its owner's death wakes %u\n", moved,
           told_count);
}

int main(int argc, char **argv) {
    size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 8;
    int kills = argc > 2 ? atoi(argv[2]) : 100;
    static const char *names[] = {"a kept thread's word", "the worker's word", "pidfd", "socket"};
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double *times[4];
    int went_on[4] = {0};
    uint64_t most[4] = {0};
    for (int at = 0; at < 4; at++) times[at] = calloc(kills, sizeof(double));
    for (int round = 0; round < kills * 4; round++) {
        what = round % 4;
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) return 1;
        shared->ready = 0;
        pid_t pid = fork();
        if (pid == 0) {
            close(pair[0]);
            child(mib << 20);
        }
        close(pair[1]);
        int pidfd = syscall(SYS_pidfd_open, pid, 0);
        fd = what == 2 ? pidfd : pair[0];
        while (shared->ready < 3) usleep(200);
        pthread_t thread;
        pthread_create(&thread, NULL, wait_for_it, NULL);
        usleep(2000);
        double began = now_us();
        kill(pid, SIGKILL);
        pthread_join(thread, NULL);
        times[what][round / 4] = told - began;
        int status;
        waitpid(pid, &status, 0);
        uint64_t more = shared->count - count_then;
        went_on[what] += more > 0;
        if (more > most[what]) most[what] = more;
        close(pidfd);
        close(pair[0]);
    }
    printf("%zu MiB, %d kills each, in us:\n", mib, kills);
    for (int at = 0; at < 4; at++) {
        qsort(times[at], kills, sizeof(double), by_size);
        printf("%-22s p50 %8.0f  p99 %8.0f  max %8.0f;  the worker went on counting after it %d times, by %llu at most\n",
               names[at], times[at][kills / 2], times[at][(kills * 99 + 99) / 100 - 1], times[at][kills - 1], went_on[at],
               (unsigned long long)most[at]);
    }
    share(0);
    share(1);
    return 0;
}
