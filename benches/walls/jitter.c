// Tails: how often, and for how long, a loop that only reads the clock is kept from it, on CPUs 0 and 1 at the same time; beside
// what the kernel counted meanwhile. Nothing of callgate runs: what shows here is in every p99.9 and max.
//   gcc -O2 -o jitter jitter.c && ./jitter [seconds]
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000L + t.tv_nsec; }
static void pin(int cpu) { cpu_set_t s; CPU_ZERO(&s); CPU_SET(cpu, &s); sched_setaffinity(0, sizeof s, &s); }
// An interrupt's count on a CPU, by its name in /proc/interrupts.
static long interrupts(const char *name, int cpu) {
    char line[4096]; long found = 0; FILE *f = fopen("/proc/interrupts", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *at = strstr(line, name);
        if (at && at < line + 8) { at += strlen(name); for (int i = 0; i <= cpu; i++) found = strtol(at, &at, 10); break; }
    }
    if (f) fclose(f);
    return found;
}
// Time that the host gave to others, in ms.
static long steal(int cpu) {
    char line[512], name[16]; long v[8] = {0}; snprintf(name, sizeof name, "cpu%d ", cpu); FILE *f = fopen("/proc/stat", "r");
    while (f && fgets(line, sizeof line, f)) if (!strncmp(line, name, strlen(name)))
        sscanf(line + strlen(name), "%ld %ld %ld %ld %ld %ld %ld %ld", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7);
    if (f) fclose(f);
    return v[7] * 1000 / sysconf(_SC_CLK_TCK);
}
static int cmp(const void *a, const void *b) { long x = *(long *)a, y = *(long *)b; return (x > y) - (x < y); }
static void watch(int cpu, double seconds) {
    enum { MOST = 1 << 20 }; long *gap = malloc(MOST * sizeof *gap), n = 0; const char *names[] = {"LOC:", "RES:", "CAL:"}; long before[3];
    pin(cpu); for (int i = 0; i < 3; i++) before[i] = interrupts(names[i], cpu);
    struct rusage r; getrusage(RUSAGE_SELF, &r); long switches = r.ru_nivcsw, stolen = steal(cpu), begin = now(), last = begin, loops = 0;
    while (last - begin < seconds * 1e9) { long t = now(); if (t - last > 500 && n < MOST) gap[n++] = t - last; last = t; loops++; }
    getrusage(RUSAGE_SELF, &r); qsort(gap, n, sizeof *gap, cmp); long sum = 0, over[4] = {0}; const long edge[] = {2000, 10000, 100000, 1000000};
    for (long i = 0; i < n; i++) { sum += gap[i]; for (int e = 0; e < 4; e++) over[e] += gap[i] > edge[e]; }
    printf("CPU %d, a second: %.0f gaps over 0.5 us (%.0f over 2 us, %.1f over 10 us, %.2f over 0.1 ms, %.2f over 1 ms), %.2f %% of the time; median %.2f us, longest %.0f us\n", cpu, n / seconds,
        over[0] / seconds, over[1] / seconds, over[2] / seconds, over[3] / seconds, sum / seconds / 1e7, n ? gap[n / 2] / 1e3 : 0, n ? gap[n - 1] / 1e3 : 0);
    printf("       meanwhile, a second: %.0f timer ticks, %.1f rescheduling and %.1f call interrupts, %.2f switches to another task, %.2f ms stolen by the host\n",
        (interrupts(names[0], cpu) - before[0]) / seconds, (interrupts(names[1], cpu) - before[1]) / seconds, (interrupts(names[2], cpu) - before[2]) / seconds,
        (r.ru_nivcsw - switches) / seconds, (steal(cpu) - stolen) / seconds);
}
int main(int c, char **v) {
    double seconds = c > 1 ? atof(v[1]) : 5; pid_t other = fork();
    if (!other) { watch(1, seconds); fflush(stdout); _exit(0); }
    watch(0, seconds); fflush(stdout); waitpid(other, 0, 0);
}
