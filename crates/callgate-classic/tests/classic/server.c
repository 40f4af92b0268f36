/* A server of the classic protocol, as such programs were written in C. It answers in place.
 *
 *     server NAME
 *
 * Says "existed" if the memory was there, "serving PID", "run NUMBER" and "done NUMBER" for each request, "idle", and
 * "stopped" when its standard input ends. A line "hold" there makes the next request last until a line "go"; both are
 * confirmed. It does what the original does, and no more: it knows nothing of owners, late answers or drains.
 */
#include "classic.h"

static HANDLE kill_event, go_event;
static volatile LONG hold;
static volatile struct data *shared;

static DWORD WINAPI read_commands(void *unused)
{
    char line[32];
    (void)unused;
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "hold", 4)) {
            InterlockedExchange(&hold, 1);
            say("holding");
        } else if (!strncmp(line, "go", 2)) {
            say("going");
            SetEvent(go_event);
        }
    }
    SetEvent(kill_event);
    return 0;
}

static void run(HANDLE done)
{
    uint32_t number = shared->number;
    say("run %u", number);
    if (InterlockedExchange(&hold, 0))
        WaitForSingleObject(go_event, INFINITE);
    shared->server = GetCurrentProcessId();
    shared->sum = sum_of(shared);
    shared->answered = number;
    SetEvent(done);
    say("done %u", number);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    HANDLE memory = CreateFileMappingA(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE, 0, sizeof(struct data),
                                       name_of(argv[1], "Memory"));
    BOOL existed = GetLastError() == ERROR_ALREADY_EXISTS;
    if (!memory) {
        say("error memory %lu", GetLastError());
        return 1;
    }
    shared = MapViewOfFile(memory, FILE_MAP_ALL_ACCESS, 0, 0, sizeof(struct data));
    HANDLE exec = CreateEventA(NULL, FALSE, FALSE, name_of(argv[1], "Exec"));
    HANDLE done = CreateEventA(NULL, FALSE, FALSE, name_of(argv[1], "Done"));
    kill_event = CreateEventA(NULL, FALSE, FALSE, NULL);
    go_event = CreateEventA(NULL, FALSE, FALSE, NULL);
    if (!shared || !exec || !done || !kill_event || !go_event) {
        say("error objects %lu", GetLastError());
        return 1;
    }
    CreateThread(NULL, 0, read_commands, NULL, 0, NULL);
    if (existed)
        say("existed");
    say("serving %lu", GetCurrentProcessId());

    HANDLE handles[] = { kill_event, exec };
    for (;;) {
        switch (WaitForMultipleObjects(2, handles, FALSE, 1000)) {
        case WAIT_OBJECT_0:
            say("stopped");
            return 0;
        case WAIT_OBJECT_0 + 1:
            run(done);
            break;
        case WAIT_TIMEOUT:
            say("idle");
            break;
        default:
            say("error wait %lu", GetLastError());
            return 1;
        }
    }
}
