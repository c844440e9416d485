/*
 * What a disk promises, observed between a process and its C library (LD_PRELOAD):
 *
 * - Every sync that returned is written to the file $DISK_LOG before its caller hears of it. So whatever a process
 *   acknowledged to anybody rests on lines of that file, and a power cut can be played afterwards: see disk.rs.
 * - While the file $DISK_CONTROL says "fail", syncs fail with EIO; while it says "stall", they do not return.
 *
 * Lines of the log:
 *   F inode size            a file is on the disk up to this size (its size when the sync began)
 *   D inode                 a folder is on the disk with these entries:
 *   E inode name
 *   .                       end of the folder
 *   U inode                 a file was removed; its number may be another's from here on
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
#include <time.h>
#include <unistd.h>

static void note(const char *text, size_t length)
{
    const char *path = getenv("DISK_LOG");
    if (path == NULL)
        return;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    /* One write: lines of several threads do not mix. */
    if (fd < 0 || write(fd, text, length) != (ssize_t)length)
        abort();
    close(fd);
}

/* 1: stall, 2: fail. */
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
    return length >= 4 && strncmp(text, "fail", 4) == 0 ? 2 : 0;
}

static int obey(void)
{
    struct timespec moment = {0, 5 * 1000 * 1000};
    int what;
    while ((what = control()) == 1)
        nanosleep(&moment, NULL);
    if (what == 2) {
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

static int synced(int fd, const char *name)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct stat before;
    if (fstat(fd, &before) != 0)
        return real(fd);
    if (obey() != 0)
        return -1;
    int result = real(fd);
    if (result != 0)
        return result;
    if (S_ISREG(before.st_mode)) {
        char line[64];
        int length = snprintf(line, sizeof line, "F %lu %ld\n", (unsigned long)before.st_ino,
                              (long)before.st_size);
        note(line, (size_t)length);
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
    if (lstat(path, &gone) != 0 || !S_ISREG(gone.st_mode))
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

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) =
        (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    note_removed(to);
    return real(from, to);
}
