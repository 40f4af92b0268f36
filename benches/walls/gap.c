// Sparse calls: what the kernel's ways to sleep and wake cost, there and back, between two processes that may use all CPUs.
// The first two, and the fifth, do not hold up against a client that drains or requeues what it can reach.
//   gcc -O2 -o gap gap.c && ./gap [microseconds between calls] [calls a round]
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
struct wv { unsigned long val, addr; unsigned flags, reserved; };
static struct { _Atomic unsigned req; char p[60]; _Atomic unsigned rep; char q[60]; _Atomic unsigned bell, asleep; } *m;
static int to, back, ep;
static long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000L + t.tv_nsec; }
static void wake(void *w) { syscall(SYS_futex, w, FUTEX_WAKE, 1, 0, 0, 0); }
// The benchmark's limit: nobody wakes who does not sleep yet.
static void swait(_Atomic unsigned *w, unsigned v, unsigned me) {
    while (*w == v) { m->asleep |= me; if (*w == v) syscall(SYS_futex, w, FUTEX_WAIT, v, 0, 0, 0); m->asleep &= ~me; }
}
static void fwait(_Atomic unsigned *w, unsigned v) { while (*w == v) syscall(SYS_futex, w, FUTEX_WAIT, v, 0, 0, 0); }
static void server(int how) {
    unsigned seen = 0; unsigned long x; struct epoll_event e;
    for (;;) {
        switch (how) {
        case 0: read(to, &x, 8); break;
        case 1: swait(&m->req, seen, 1); break;
        case 4: fwait(&m->req, seen); break;
        case 2: case 3: { struct wv w[2] = {{seen, (long)&m->req, 2, 0}, {0, (long)&m->bell, 2 | 128, 0}};
            while (m->req == seen) syscall(449, w, 2, 0, 0, 0); } break;
        case 5: case 6: while (m->req == seen) epoll_wait(ep, &e, 1, -1); break;
        }
        seen = m->req; m->rep = seen;
        if (how == 0) x = 1, write(back, &x, 8);
        if (how == 1 && m->asleep & 2) wake(&m->rep);
        if (how == 2 || how == 5) wake(&m->rep);
        if (how == 3 || how == 4 || how == 6) sched_yield();
    }
}
static void call(int how) {
    unsigned old = m->rep, n = old + 1; unsigned long x = 1; m->req = n;
    if (how == 0 || how == 5 || how == 6) write(to, &x, 8); else if (how != 1 || m->asleep & 1) wake(&m->req);
    if (how == 0) { read(back, &x, 8); return; }
    if ((how == 3 || how == 4 || how == 6) && m->rep == old) sched_yield();
    if (how == 3 || how == 4 || how == 6) while (m->rep == old) sched_yield();
    else if (how == 1) swait(&m->rep, old, 2); else fwait(&m->rep, old);
}
static int cmp(const void *a, const void *b) { long x = *(long *)a, y = *(long *)b; return (x > y) - (x < y); }
int main(int c, char **v) {
    long gap = c > 1 ? atol(v[1]) * 1000 : 1000000; int n = c > 2 ? atoi(v[2]) : 400;
    const char *names[] = {"eventfd, read", "futex, if asleep", "futex_waitv of 2, futex",
        "futex_waitv of 2, yield", "futex, yield", "eventfd edge epoll, futex", "eventfd edge epoll, yield"};
    long *t = malloc(n * sizeof *t); double med[7][9];
    for (int r = 0; r < 9; r++) for (int h = 0; h < 7; h++) {
        m = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0); to = eventfd(0, 0); back = eventfd(0, 0); ep = epoll_create1(0);
        struct epoll_event e = {.events = EPOLLIN | EPOLLET}; if (h > 4) epoll_ctl(ep, EPOLL_CTL_ADD, to, &e);
        pid_t k = fork(); if (!k) { server(h); }
        usleep(2000);
        long next = now();
        for (int i = 0; i < n; i++) { next += gap; struct timespec s = {next / 1000000000L, next % 1000000000L}; clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &s, 0);
            long a = now(); call(h); t[i] = now() - a; }
        qsort(t, n, sizeof *t, cmp); med[h][r] = t[n / 2];
        kill(k, 9); munmap(m, 4096); close(to); close(back); close(ep);
    }
    for (int h = 0; h < 7; h++) { for (int i = 0; i < 9; i++) for (int j = i + 1; j < 9; j++) if (med[h][j] < med[h][i]) { double x = med[h][i]; med[h][i] = med[h][j]; med[h][j] = x; }
        printf("%-28s p50 %6.2f us  (%.2f to %.2f)\n", names[h], med[h][4] / 1e3, med[h][0] / 1e3, med[h][8] / 1e3); }
}
