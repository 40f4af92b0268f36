// Large messages: 16 MiB (or so many KiB) that a thread on CPU 1 has written are summed up by one on CPU 0, as they lie, or
// through a copy in pieces of some size, which is how bytes are read that their writer may change meanwhile.
//   gcc -O2 -pthread -o pieces pieces.c && ./pieces [KiB] [rounds]
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static size_t bytes; static uint64_t *shared; static _Atomic int turn; static char piece[16384] __attribute__((aligned(64)));
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec / 1e3; }
static void pin(int cpu) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(cpu, &s); sched_setaffinity(0, sizeof s, &s); }
__attribute__((noinline, optimize("O3"))) static uint64_t sum(const uint64_t *p, size_t n) { uint64_t s = 0; for (size_t i = 0; i < n; i++) s += p[i]; return s; }
__attribute__((noinline, target("avx"))) static void copy(char *d, const char *s, size_t n) {
    for (size_t i = 0; i < n; i += 128) {
        __m256i a = _mm256_loadu_si256((void *)(s + i)), b = _mm256_loadu_si256((void *)(s + i + 32));
        __m256i c = _mm256_loadu_si256((void *)(s + i + 64)), e = _mm256_loadu_si256((void *)(s + i + 96));
        _mm256_storeu_si256((void *)(d + i), a), _mm256_storeu_si256((void *)(d + i + 32), b);
        _mm256_storeu_si256((void *)(d + i + 64), c), _mm256_storeu_si256((void *)(d + i + 96), e);
    }
}
static uint64_t read_all(size_t size) { // 0: as it lies
    if (!size) return sum(shared, bytes / 8);
    uint64_t s = 0;
    for (size_t at = 0; at < bytes; at += size) {
        size_t n = size < bytes - at ? size : bytes - at;
        copy(piece, (char *)shared + at, n); s += sum((uint64_t *)piece, n / 8);
    }
    return s;
}
static void *writer(void *none) {
    pin(1);
    for (uint64_t k = 0;; k += 3) { while (turn != 1) _mm_pause(); for (size_t i = 0; i < bytes / 8; i++) shared[i] = k + i; turn = 0; }
    return none;
}
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
int main(int c, char **v) {
    bytes = (c > 1 ? atol(v[1]) : 16384) << 10; int rounds = c > 2 ? atoi(v[2]) : 25;
    const size_t sizes[] = {0, 512, 1024, 2048, 4096, 16384}; enum { KINDS = 6 }; static double t[KINDS][999]; volatile uint64_t sink;
    shared = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    pthread_t thread; pthread_create(&thread, 0, writer, 0); pin(0);
    for (int r = 0; r < rounds && r < 999; r++) for (int k = 0; k < KINDS; k++) {
        turn = 1; while (turn) _mm_pause();
        double a = now(); sink = read_all(sizes[k]); t[k][r] = now() - a;
    }
    (void)sink;
    for (int k = 0; k < KINDS; k++) { qsort(t[k], rounds, sizeof **t, cmp); printf("%5zu bytes a piece%s p50 %7.1f us  (%.1f to %.1f)\n", sizes[k], k ? "" : " (no copy)", t[k][rounds / 2], t[k][0], t[k][rounds - 1]); }
}
