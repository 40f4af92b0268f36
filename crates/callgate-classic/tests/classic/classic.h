/* The struct and the names that all programs of these tests share: each a classic program's own, as in any pair. */
#ifndef CLASSIC_H
#define CLASSIC_H

#include <windows.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 4,032 bytes, so that a page holds it and a torn one is seen. */
struct data {
    uint32_t number;    /* the client's, left alone by the server */
    uint32_t seed;      /* the client's */
    uint32_t server;    /* the server's: process id */
    uint32_t answered;  /* the server's: number of the request that it took; written last */
    uint64_t sum;       /* the server's: of the words that came, times `seed` */
    uint32_t words[1002];
};

static const char *name_of(const char *base, const char *what)
{
    static char names[8][300];
    static int next;
    char *name = names[next++ % 8];
    snprintf(name, sizeof names[0], "%s%s", base, what);
    return name;
}

static inline void fill(struct data *data, uint32_t number, uint32_t seed)
{
    data->number = number;
    data->seed = seed;
    data->server = data->answered = 0;
    data->sum = 0;
    for (uint32_t i = 0; i < 1002; i++)
        data->words[i] = seed + i;
}

static uint64_t sum_of(const volatile struct data *data)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 1002; i++)
        sum += data->words[i];
    return sum * data->seed;
}

/* One line for the test that reads along. */
static void say(const char *format, ...)
{
    char line[256];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    puts(line);
    fflush(stdout);
}

#endif
