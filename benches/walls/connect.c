// Connecting: a Unix socket's connect and first echo, against a connection over shared memory that the client makes and the
// server checks, with its first call; the least that does it, one server thread, no limits, no death detection.
//   gcc -O2 -o connect connect.c && ./connect [calls]
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#define SIZE 8192
static struct sockaddr_un at = {.sun_family = AF_UNIX, .sun_path = "/tmp/walls-connect.sock"};
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1e6 + t.tv_nsec / 1e3; }
static long fut(_Atomic unsigned *w, int op, unsigned v) { return syscall(SYS_futex, w, op, v, 0, 0, 0); }
static int pass(int s, int fd) { // sends or, with fd < 0, receives a descriptor with 40 bytes
    char data[40] = "hello", room[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec v = {data, sizeof data};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    if (fd < 0) { if (recvmsg(s, &m, MSG_CMSG_CLOEXEC) <= 0) return -1; memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd); return fd; }
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    return sendmsg(s, &m, MSG_NOSIGNAL);
}
static void serve(int l, int shared) {
    char buf[64]; struct ucred who; socklen_t len = sizeof who;
    for (;;) {
        int s = accept4(l, 0, 0, SOCK_CLOEXEC);
        if (!shared) { send(s, buf, recv(s, buf, 64, 0), MSG_NOSIGNAL); recv(s, buf, 64, 0); close(s); continue; }
        getsockopt(s, SOL_SOCKET, SO_PEERCRED, &who, &len);
        int fd = pass(s, -1); struct stat st;
        if (!(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK) || fstat(fd, &st) || st.st_size != SIZE) exit(1);
        _Atomic unsigned *m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
        send(s, buf, 64, MSG_NOSIGNAL); // welcome
        recv(s, buf, 64, 0); // the bell of the first call
        memcpy((char *)m + 192, (char *)m + 128, 32);
        if (atomic_exchange(&m[16], 2) == 3) fut(&m[16], FUTEX_WAKE, 1);
        recv(s, buf, 64, 0); munmap(m, SIZE); close(s);
    }
}
static double one(int shared) {
    char buf[64] = "32 bytes"; double a = now(), took;
    int s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(s, (void *)&at, sizeof at)) { perror("connect"); exit(1); }
    if (!shared) { send(s, buf, 32, 0); recv(s, buf, 64, 0); took = now() - a; close(s); return took; }
    int fd = memfd_create("walls", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (ftruncate(fd, SIZE)) exit(1);
    _Atomic unsigned *m = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    pass(s, fd); close(fd);
    recv(s, buf, 64, 0); // welcome
    memcpy((char *)m + 128, buf, 32); m[16] = 1;
    send(s, buf, 1, 0); // bell
    unsigned v = 1;
    while (m[16] != 2) if (m[16] == 3 || atomic_compare_exchange_strong(&m[16], &v, 3)) fut(&m[16], FUTEX_WAIT, 3);
    memcpy(buf, (char *)m + 192, 32);
    took = now() - a; munmap(m, SIZE); close(s);
    return took;
}
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
int main(int c, char **v) {
    int n = c > 1 ? atoi(v[1]) : 200; double t[2][n];
    for (int how = 0; how < 2; how++) {
        int l = socket(AF_UNIX, SOCK_SEQPACKET, 0); unlink(at.sun_path);
        if (bind(l, (void *)&at, sizeof at) || listen(l, 9)) return 1;
        pid_t k = fork(); if (!k) serve(l, how);
        for (int i = 0; i < n; i++) { usleep(5000); t[how][i] = one(how); }
        kill(k, 9); close(l); unlink(at.sun_path); qsort(t[how], n, sizeof **t, cmp);
    }
    printf("socket, connect and echo        p50 %6.1f us\nshared memory, connect and call p50 %6.1f us  ratio %.2f\n", t[0][n / 2], t[1][n / 2], t[1][n / 2] / t[0][n / 2]);
}
