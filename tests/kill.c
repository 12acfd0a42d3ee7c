/* Preloaded into a process, it counts what that process does to the files of one folder, and ends it or lets a call fail at a chosen one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum {WRITE, FSYNC, RENAME};
enum {COUNT, BEFORE, MIDDLE, AFTER, FAIL};

static char folder[4096];
static int watched = -1, moment, error;
static long at, seen[3];

void arm(const char *where, int call, long number, int when, int code) {
    strncpy(folder, where, sizeof folder - 1);
    watched = call; at = number; moment = when; error = code;
    memset(seen, 0, sizeof seen);
}
long count(int call) { return seen[call]; }

static int ours(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = folder[0] ? readlink(link, path, sizeof path - 1) : -1;
    return n > 0 && strncmp(path, folder, strlen(folder)) == 0;
}
static int hit(int call) { return ++seen[call] == at && call == watched && moment != COUNT; }
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)
#define ACT(call, half, whole) \
    if (!hit(call)) return whole; \
    if (moment == FAIL) { errno = error; return -1; } \
    if (moment == MIDDLE) half; \
    if (moment == AFTER) whole; \
    die(); return -1

ssize_t write(int fd, const void *b, size_t n) { REAL(write); if (!ours(fd)) return real(fd, b, n); ACT(WRITE, real(fd, b, n/2), real(fd, b, n)); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { REAL(pwrite); if (!ours(fd)) return real(fd, b, n, o); ACT(WRITE, real(fd, b, n/2, o), real(fd, b, n, o)); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64); if (!ours(fd)) return real(fd, b, n, o); ACT(WRITE, real(fd, b, n/2, o), real(fd, b, n, o)); }
int fsync(int fd) { REAL(fsync); if (!ours(fd)) return real(fd); ACT(FSYNC, (void)0, real(fd)); }
int rename(const char *a, const char *b) { REAL(rename); ACT(RENAME, (void)0, real(a, b)); }
