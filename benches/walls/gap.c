// Sparse calls: what the kernel's ways to sleep and wake cost, there and back, between two processes that may use all CPUs.
// The first two, and the fifth, do not hold up against a client that drains or requeues what it can reach. System calls are made in
// place, as the benchmark makes them: after a quiet while caches are cold, and each of the C library's functions takes 0.1 to 0.3 us more.
//   gcc -O2 -o gap gap.c && ./gap [microseconds between calls] [calls a round]        (-DLIBC: by the C library's functions)
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
static inline __attribute__((always_inline)) long sys(long n, long a, long b, long c, long d, long e) {
#ifdef LIBC
    return n == SYS_read ? read(a, (void *)b, c) : n == SYS_write ? write(a, (void *)b, c) : n == SYS_sched_yield ? sched_yield() : syscall(n, a, b, c, d, e, 0);
#else
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = 0;
    __asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return n;
#endif
}
static void yield(void) { sys(SYS_sched_yield, 0, 0, 0, 0, 0); }
static long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000L + t.tv_nsec; }
static void wake(void *w) { sys(SYS_futex, (long)w, FUTEX_WAKE, 1, 0, 0); }
// The benchmark's limit: nobody wakes who does not sleep yet.
static void swait(_Atomic unsigned *w, unsigned v, unsigned me) {
    while (*w == v) { m->asleep |= me; if (*w == v) sys(SYS_futex, (long)w, FUTEX_WAIT, v, 0, 0); m->asleep &= ~me; }
}
static void fwait(_Atomic unsigned *w, unsigned v) { while (*w == v) sys(SYS_futex, (long)w, FUTEX_WAIT, v, 0, 0); }
static void server(int how) {
    unsigned seen = 0; unsigned long x; struct epoll_event e;
    for (;;) {
        switch (how) {
        case 0: sys(SYS_read, to, (long)&x, 8, 0, 0); break;
        case 1: swait(&m->req, seen, 1); break;
        case 4: fwait(&m->req, seen); break;
        case 2: case 3: { struct wv w[2] = {{seen, (long)&m->req, 2, 0}, {0, (long)&m->bell, 2 | 128, 0}};
            while (m->req == seen) sys(449, (long)w, 2, 0, 0, 0); } break;
        case 5: case 6: while (m->req == seen) sys(SYS_epoll_wait, ep, (long)&e, 1, -1, 0); break;
        }
        seen = m->req; m->rep = seen;
        if (how == 0) x = 1, sys(SYS_write, back, (long)&x, 8, 0, 0);
        if (how == 1 && m->asleep & 2) wake(&m->rep);
        if (how == 2 || how == 5) wake(&m->rep);
        if (how == 3 || how == 4 || how == 6) yield();
    }
}
static void call(int how) {
    unsigned old = m->rep, n = old + 1; unsigned long x = 1; m->req = n;
    if (how == 0 || how == 5 || how == 6) sys(SYS_write, to, (long)&x, 8, 0, 0); else if (how != 1 || m->asleep & 1) wake(&m->req);
    if (how == 0) { sys(SYS_read, back, (long)&x, 8, 0, 0); return; }
    if ((how == 3 || how == 4 || how == 6) && m->rep == old) yield();
    if (how == 3 || how == 4 || how == 6) while (m->rep == old) yield();
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
