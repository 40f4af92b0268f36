/* A client of the classic protocol, as such programs were written in C.
 *
 *     client NAME [LIMIT_MS]      250, as in the original, unless a test must not depend on the machine's speed
 *
 * Reads commands, a line each, and answers each with one line:
 *
 *     call NUMBER SEED    "ok SERVER", or "absent", "busy", "timeout", "wrong" (not the answer to this request),
 *                         "error WHAT CODE"
 *     limit MS            "limited"
 *     calls N SEED        so many calls, repeated while busy: "calls OK WRONG TIMEOUT ABSENT"
 *     detach              "detached"
 *
 * It does what the original does: it does not drain Done, and takes an abandoned mutex for its own without another
 * thought.
 */
#include "classic.h"

static const char *base;
static DWORD limit_ms = 250;
static HANDLE memory, exec, done, mutex;
static struct data *shared;
static struct data answer;

static void detach(void)
{
    if (shared)
        UnmapViewOfFile(shared);
    if (memory)
        CloseHandle(memory);
    if (exec)
        CloseHandle(exec);
    if (done)
        CloseHandle(done);
    shared = NULL;
    memory = exec = done = NULL;
}

static const char *attach(void)
{
    if (shared)
        return NULL;
    memory = OpenFileMappingA(FILE_MAP_ALL_ACCESS, FALSE, name_of(base, "Memory"));
    if (!memory)
        return "absent";
    shared = MapViewOfFile(memory, FILE_MAP_ALL_ACCESS, 0, 0, sizeof(struct data));
    exec = CreateEventA(NULL, FALSE, FALSE, name_of(base, "Exec"));
    done = CreateEventA(NULL, FALSE, FALSE, name_of(base, "Done"));
    if (!mutex)
        mutex = CreateMutexA(NULL, FALSE, name_of(base, "Free"));
    if (shared && exec && done && mutex)
        return NULL;
    detach();
    return "error";
}

static const char *call(uint32_t number, uint32_t seed)
{
    const char *problem = attach();
    if (problem)
        return problem;
    DWORD woken = WaitForSingleObject(mutex, limit_ms);
    if (woken != WAIT_OBJECT_0 && woken != WAIT_ABANDONED)
        return "busy";
    fill(shared, number, seed);
    SetEvent(exec);
    if (WaitForSingleObject(done, limit_ms) != WAIT_OBJECT_0) {
        ReleaseMutex(mutex);
        detach();
        return "timeout";
    }
    answer = *shared;
    ReleaseMutex(mutex);
    BOOL right = answer.number == number && answer.answered == number && answer.seed == seed && answer.server &&
                 answer.sum == sum_of(&answer);
    return right ? NULL : "wrong";
}

static void calls(unsigned count, uint32_t seed)
{
    unsigned ok = 0, wrong = 0, timeout = 0, absent = 0;
    for (unsigned i = 0; i < count;) {
        const char *problem = call(seed * 1000000u + i, seed + i);
        if (problem && !strcmp(problem, "busy"))
            continue;
        i++;
        ok += !problem;
        wrong += problem && !strcmp(problem, "wrong");
        timeout += problem && !strcmp(problem, "timeout");
        absent += problem && !strcmp(problem, "absent");
    }
    say("calls %u %u %u %u", ok, wrong, timeout, absent);
}

int main(int argc, char **argv)
{
    char line[256];
    unsigned first, second;
    if (argc < 2)
        return 2;
    base = argv[1];
    if (argc > 2)
        limit_ms = atoi(argv[2]);
    say("ready %lu", GetCurrentProcessId());
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "calls %u %u", &first, &second) == 2) {
            calls(first, second);
        } else if (sscanf(line, "call %u %u", &first, &second) == 2) {
            const char *problem = call(first, second);
            problem ? say("%s", problem) : say("ok %u", answer.server);
        } else if (sscanf(line, "limit %u", &first) == 1) {
            limit_ms = first;
            say("limited");
        } else if (!strncmp(line, "detach", 6)) {
            detach();
            say("detached");
        } else {
            return 2;
        }
    }
    return 0;
}
