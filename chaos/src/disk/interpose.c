/*
 * What a disk promises, observed between a process and its C library (LD_PRELOAD):
 *
 * - Every sync that returned is written to the file $DISK_LOG before its caller hears of it. So whatever a process
 *   acknowledged to anybody rests on lines of that file, and a power cut can be played afterwards: see disk.rs.
 * - While the file $DISK_CONTROL says "fail", syncs fail with EIO; while it says "stall", they do not return; while it
 *   says "full", files do not grow (ENOSPC), but for the standard ones.
 * - The wall clock is as far ahead as the file $CLOCK_CONTROL says, in seconds; negative, it is behind.
 * - A byte in a file beside a control file, ".struck", says that a call met with what that one says.
 *
 * Several processes may write to one log: its order is that in which they noted their syncs.
 *
 * Lines of the log:
 *   F inode size            a file is on the disk up to this size (its size when the sync began)
 *   D inode                 a folder is on the disk with these entries:
 *   E inode name
 *   .                       end of the folder
 *   U inode                 a file was removed; its number may be another's from here on
 *
 * Folders of many files would take too many lines. With $DISK_NAMES set it is instead
 *   N path                  a file got this name
 *   S inode position        a folder is on the disk with all names that the log had at that position
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void note(const char *text, size_t length)
{
    const char *path = getenv("DISK_LOG");
    if (path == NULL)
        return;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    /* One write: lines of several threads do not mix. */
    if (fd < 0 || syscall(SYS_write, fd, text, length) != (ssize_t)length)
        abort();
    close(fd);
}

/* A call met with what this control file says. */
static void strike(const char *control)
{
    char path[4200];
    const char *name = getenv(control);
    if (name == NULL || snprintf(path, sizeof path, "%s.struck", name) >= (int)sizeof path)
        return;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return;
    /* Nobody is to fail because it cannot be told. */
    (void)syscall(SYS_write, fd, ".", 1);
    close(fd);
}

/* 1: stall, 2: fail, 3: full. */
static int control(void)
{
    const char *path = getenv("DISK_CONTROL");
    char text[8] = {0};
    if (path == NULL)
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length >= 5 && strncmp(text, "stall", 5) == 0)
        return 1;
    if (length >= 4 && strncmp(text, "fail", 4) == 0)
        return 2;
    return length >= 4 && strncmp(text, "full", 4) == 0 ? 3 : 0;
}

static int obey(void)
{
    struct timespec moment = {0, 5 * 1000 * 1000};
    int what, struck = 0;
    while ((what = control()) == 1) {
        if (!struck)
            strike("DISK_CONTROL");
        struck = 1;
        nanosleep(&moment, NULL);
    }
    if (what == 2) {
        strike("DISK_CONTROL");
        errno = EIO;
        return -1;
    }
    return 0;
}

static void note_folder(int fd, ino_t inode)
{
    static char text[1 << 16];
    static int busy;
    while (__sync_lock_test_and_set(&busy, 1))
        ;
    int length = snprintf(text, sizeof text, "D %lu\n", (unsigned long)inode);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        length += snprintf(text + length, sizeof text - (size_t)length, "E %lu %s\n",
                           (unsigned long)entry->d_ino, entry->d_name);
        if (length > (int)sizeof text - 512)
            abort();
    }
    if (folder != NULL)
        closedir(folder);
    length += snprintf(text + length, sizeof text - (size_t)length, ".\n");
    note(text, (size_t)length);
    __sync_lock_release(&busy);
}

/* How long the log is: names noted from here on may be lost. */
static long position(void)
{
    struct stat log;
    const char *path = getenv("DISK_LOG");
    return path != NULL && stat(path, &log) == 0 ? (long)log.st_size : 0;
}

static void note_names(ino_t inode, long position)
{
    char line[64];
    int length = snprintf(line, sizeof line, "S %lu %ld\n", (unsigned long)inode, position);
    note(line, (size_t)length);
}

static int synced(int fd, const char *name)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct stat before;
    if (fstat(fd, &before) != 0)
        return real(fd);
    if (obey() != 0)
        return -1;
    int names = getenv("DISK_NAMES") != NULL;
    long noted = names ? position() : 0;
    int result = real(fd);
    if (result != 0)
        return result;
    if (S_ISREG(before.st_mode)) {
        char line[64];
        int length = snprintf(line, sizeof line, "F %lu %ld\n", (unsigned long)before.st_ino,
                              (long)before.st_size);
        note(line, (size_t)length);
    } else if (S_ISDIR(before.st_mode) && names) {
        note_names(before.st_ino, noted);
    } else if (S_ISDIR(before.st_mode)) {
        note_folder(fd, before.st_ino);
    }
    return result;
}

int fsync(int fd) { return synced(fd, "fsync"); }

int fdatasync(int fd) { return synced(fd, "fdatasync"); }

static void note_removed(const char *path)
{
    struct stat gone;
    /* One of several names is not the file. */
    if (lstat(path, &gone) != 0 || !S_ISREG(gone.st_mode) || gone.st_nlink > 1)
        return;
    char line[64];
    int length = snprintf(line, sizeof line, "U %lu\n", (unsigned long)gone.st_ino);
    note(line, (size_t)length);
}

int unlink(const char *path)
{
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    note_removed(path);
    return real(path);
}

static void note_name(const char *path)
{
    char line[4200];
    if (getenv("DISK_NAMES") == NULL)
        return;
    int length = snprintf(line, sizeof line, "N %s\n", path);
    if (length >= (int)sizeof line)
        abort();
    note(line, (size_t)length);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags)
{
    int (*real)(int, const char *, int, const char *, int) =
        (int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat");
    int result = real(from_folder, from, to_folder, to, flags);
    /* The sync that is to cover it comes later than this line. */
    if (result == 0)
        note_name(to);
    return result;
}

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) =
        (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    note_removed(to);
    int result = real(from, to);
    if (result == 0)
        note_name(to);
    return result;
}

static int is_full(int fd)
{
    struct stat file;
    if (fd <= STDERR_FILENO || getenv("DISK_CONTROL") == NULL)
        return 0;
    if (fstat(fd, &file) != 0 || !S_ISREG(file.st_mode) || control() != 3)
        return 0;
    strike("DISK_CONTROL");
    errno = ENOSPC;
    return 1;
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    ssize_t (*real)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    return is_full(fd) ? -1 : real(fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return is_full(fd) ? -1 : real(fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) { return pwrite64(fd, bytes, length, at); }

/* Seconds that the wall clock is ahead; looked up every 50 ms. */
static long ahead(void)
{
    static volatile long seconds, looked;
    const char *path = getenv("CLOCK_CONTROL");
    struct timespec now;
    if (path == NULL)
        return 0;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    long tick = now.tv_sec * 20 + now.tv_nsec / 50000000;
    if (tick != looked) {
        char text[32] = {0};
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        looked = tick;
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0)
                seconds = atol(text);
            close(fd);
            if (seconds != 0)
                strike("CLOCK_CONTROL");
        }
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to != NULL)
        *to = now.tv_sec;
    return now.tv_sec;
}
