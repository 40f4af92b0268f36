// 64 calls in flight from one thread, 48 bytes each: two rings with one shared counter a direction; then a cell for each call,
// whose state word is published by a read-modify-write on either side, so that a sleeping peer is never missed; then the locks
// that let threads share the connection. Two processes on CPUs 0 and 1.
//   gcc -O2 -o flight flight.c && ./flight [rounds]
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
#define WINDOW 64
struct cell { _Atomic u32 state, word; _Atomic u64 w[7]; };
struct shared { _Atomic u64 sent; char a[248]; _Atomic u64 done; char b[248]; _Atomic u32 taken; char c[252]; struct cell cell[2][WINDOW]; };
static _Atomic u32 lock;
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e9 + t.tv_nsec; }
static void pin(int cpu) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(cpu, &s); sched_setaffinity(0, sizeof s, &s); }
#define HOW(n) static inline __attribute__((always_inline)) n
HOW(void put)(struct cell *c, u64 first) { for (int i = 0; i < 7; i++) atomic_store_explicit(&c->w[i], first + i, RELAXED); }
HOW(u64 get)(struct cell *c) { u64 x = 0; for (int i = 0; i < 7; i++) x += atomic_load_explicit(&c->w[i], RELAXED) - i; return x; }
HOW(void take)(int how) { u32 free = 0; if (how >= 2 && !atomic_compare_exchange_strong(&lock, &free, 1)) exit(1); }
HOW(void give)(int how) { if (how >= 2 && atomic_exchange(&lock, 0) == 2) exit(1); }
HOW(void serve)(struct shared *s, int how) {
    u64 n = 0;
    for (;;) {
        if (how == 0) {
            u64 there = atomic_load_explicit(&s->sent, memory_order_acquire);
            if (there == n) __builtin_ia32_pause();
            for (; n < there; n++) { put(&s->cell[1][n % WINDOW], get(&s->cell[0][n % WINDOW])); atomic_store_explicit(&s->done, n + 1, memory_order_release); }
        } else {
            struct cell *c = &s->cell[0][n % WINDOW]; u32 want = (u32)n * 2 + 1;
            while (atomic_load_explicit(&c->state, memory_order_acquire) != want) __builtin_ia32_pause();
            u64 x = get(c);
            atomic_store_explicit(&s->taken, (u32)n, memory_order_release);
            put(c, x);
            if (!atomic_compare_exchange_strong_explicit(&c->state, &want, want + 1, memory_order_release, RELAXED)) exit(1);
            n++;
        }
    }
}
HOW(void call)(struct shared *s, int how, u64 count) {
    u64 sent = 0, got = 0, there = 0;
    while (got < count) {
        while (sent < got + WINDOW && sent < count) {
            struct cell *c = &s->cell[0][sent % WINDOW];
            take(how); put(c, sent);
            if (how == 0) atomic_store_explicit(&s->sent, sent + 1, memory_order_release);
            else if (atomic_exchange_explicit(&c->state, (u32)sent * 2 + 1, memory_order_release) & 1) exit(1);
            give(how); sent++;
        }
        if (how == 0) while (there == got) { there = atomic_load_explicit(&s->done, memory_order_acquire); if (there == got) __builtin_ia32_pause(); }
        else while (atomic_load_explicit(&s->cell[0][got % WINDOW].state, memory_order_acquire) != (u32)got * 2 + 2) __builtin_ia32_pause();
        if (get(&s->cell[how == 0][got % WINDOW]) != 7 * 7 * got) exit(2);
        take(how); got++; give(how);
    }
}
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
int main(int c, char **v) {
    const char *names[] = {"rings, one counter a direction", "a cell a call, read-modify-writes", "+ a lock to send, and to take back"};
    int rounds = c > 1 ? atoi(v[1]) : 15; u64 n = 400000; double t[3][99];
    for (int r = 0; r < rounds && r < 99; r++) for (int how = 0; how < 3; how++) {
        struct shared *s = mmap(0, 3 * 4096 + 8192, 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0); pid_t child = fork();
        if (!child) { pin(1); if (how == 0) serve(s, 0); else serve(s, 1); }
        pin(0); usleep(2000); double a = now();
        if (how == 0) call(s, 0, n); else if (how == 1) call(s, 1, n); else call(s, 2, n);
        t[how][r] = n / (now() - a) * 1e3; kill(child, 9); munmap(s, 3 * 4096 + 8192);
    }
    for (int h = 0; h < 3; h++) { qsort(t[h], rounds, sizeof **t, cmp); printf("%-36s %6.2f million calls/s  (%.2f to %.2f)\n", names[h], t[h][rounds / 2], t[h][0], t[h][rounds - 1]); }
}
