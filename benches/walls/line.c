// A busy pair: one cache line with 48 bytes in it bounced between two processes on CPUs 0 and 1; then, one by one, what a call
// has to do besides, as little of it as can be. Untimed means, so that no clock is in them.
//   gcc -O2 -o line line.c && ./line [rounds]
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
typedef unsigned u32; typedef unsigned long u64;
#define RELAXED memory_order_relaxed
struct shared { _Atomic u32 state, word; _Atomic u64 w[7]; char pad[192]; _Atomic u32 taken; };
struct private { _Atomic u32 lane, lock; volatile u32 gone, active, pinned; volatile u64 message[6], back[6]; };
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
static void pin(int cpu) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(cpu, &s); sched_setaffinity(0, sizeof s, &s); }
#define HOW(n) static inline __attribute__((always_inline)) n
HOW(void publish)(struct shared *s, int how, u32 old, u32 state, const u64 *m, u64 head) {
    atomic_store_explicit(&s->word, 0, RELAXED);
    atomic_store_explicit(&s->w[0], head, RELAXED);
    for (int i = 0; i < 6; i++) atomic_store_explicit(&s->w[i + 1], m[i], RELAXED);
    // From 1 on: the same operation tells whether the peer sleeps.
    if (how == 0) atomic_store_explicit(&s->state, state, memory_order_release);
    else if (!atomic_compare_exchange_strong_explicit(&s->state, &old, state, memory_order_release, RELAXED)) exit(1);
}
HOW(void look)(struct shared *s, u32 state) {
    while (atomic_load_explicit(&s->state, memory_order_acquire) != state) __builtin_ia32_pause();
}
HOW(void work)(int turns) { for (int i = 0; i < turns; i++) __asm__ volatile(""); }
HOW(void serve)(struct shared *s, struct private *p, int how, int turns) {
    u64 m[6];
    for (u32 t = 1;; t += 2) {
        look(s, t);
        u64 head = atomic_load_explicit(&s->w[0], RELAXED);
        for (int i = 0; i < 6; i++) m[i] = atomic_load_explicit(&s->w[i + 1], RELAXED);
        if (how >= 2) { // at most once: says how far it has taken calls, then looks whether the connection ends; checks the head
            if ((head & 0xffff) > 64 || (head >> 16 & 63) > 48) exit(1);
            atomic_store_explicit(&s->taken, t, memory_order_release);
            if (p->gone || p->pinned) exit(1);
        }
        m[0] = ~m[0];
        work(turns);
        publish(s, how, t, t + 1, m, how >= 2 ? head | (u64)p->active << 32 : head);
    }
}
HOW(void call)(struct shared *s, struct private *p, int how, int turns, u32 n) {
    u64 m[6];
    for (u32 t = 1; t < 2 * n; t += 2) {
        if (how >= 3) { // threads may call at the same time: a lane, and a lock around the order of calls
            u32 free = 0, too = 0;
            if (p->gone || !atomic_compare_exchange_strong_explicit(&p->lane, &free, 1, memory_order_acquire, RELAXED)) exit(1);
            if (!atomic_compare_exchange_strong_explicit(&p->lock, &too, 1, memory_order_acquire, RELAXED)) exit(1);
        }
        m[0] = t;
        // The user's bytes, by words: wider loads of what was just stored by words would wait for the cache.
        if (how >= 4) { for (int i = 0; i < 6; i++) p->message[i] = m[i]; for (int i = 0; i < 6; i++) m[i] = p->message[i]; }
        publish(s, how, t - 1, t, m, 32 << 16);
        if (how >= 3 && atomic_exchange_explicit(&p->lock, 0, memory_order_release) == 2) exit(1);
        look(s, t + 1);
        for (int i = 0; i < 6; i++) m[i] = atomic_load_explicit(&s->w[i + 1], RELAXED);
        if (how >= 4) { for (int i = 0; i < 6; i++) p->back[i] = m[i]; for (int i = 0; i < 6; i++) m[i] = p->back[i]; }
        if (how >= 3) atomic_store_explicit(&p->lane, 0, memory_order_release);
        work(turns);
        if ((u32)m[0] != ~t) exit(2);
    }
}
#define EACH(f, ...) switch (how) { case 0: f(s, p, 0, __VA_ARGS__); break; case 1: f(s, p, 1, __VA_ARGS__); break; case 2: f(s, p, 2, __VA_ARGS__); break; \
    case 3: f(s, p, 3, __VA_ARGS__); break; default: f(s, p, 4, __VA_ARGS__); }
// What the parts cost by themselves, in ns.
static void parts(void) {
    static _Atomic u32 lock; const int n = 2000000; double a = now();
    for (int i = 0; i < n; i++) __builtin_ia32_pause();
    double b = now();
    for (int i = 0; i < n; i++) { u32 free = 0; atomic_compare_exchange_strong(&lock, &free, 1); atomic_exchange(&lock, 0); }
    double c = now(); work(n); double d = now();
    printf("PAUSE %.1f ns, a free lock taken and given back %.1f ns, a turn of work %.2f ns\n", (b - a) / n, (c - b) / n, (d - c) / n);
}
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
int main(int c, char **v) {
    const struct { const char *name; int how, turns; } kinds[] = {{"bare", 0, 0}, {"+ read-modify-write to publish", 1, 0}, {"+ at most once, checks", 2, 0},
        {"+ lane and lock", 3, 0}, {"+ the user's bytes in and out", 4, 0}, {"+ 50 turns of work a side", 4, 50}, {"+ 100 turns", 4, 100}, {"+ 150 turns", 4, 150}};
    int rounds = c > 1 ? atoi(v[1]) : 15; u32 n = 60000; double t[8][99]; parts();
    for (int r = 0; r < rounds && r < 99; r++) for (int k = 0; k < 8; k++) {
        struct shared *s = mmap(0, 4096, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0); struct private *p = calloc(1, sizeof *p); int how = kinds[k].how, turns = kinds[k].turns;
        pid_t child = fork();
        if (!child) { pin(1); EACH(serve, turns) }
        pin(0); usleep(2000); double a = now(); EACH(call, turns, n) t[k][r] = (now() - a) / n; kill(child, 9); munmap(s, 4096); free(p);
    }
    for (int k = 0; k < 8; k++) { qsort(t[k], rounds, sizeof **t, cmp); printf("%-32s mean %6.1f ns  (%.1f to %.1f)\n", kinds[k].name, t[k][rounds / 2], t[k][0], t[k][rounds - 1]); }
}
