/* Preloaded into a process, this makes system calls fail as on a file system that lacks them.
   FOLDER_SYNC, FILE_SYNC and FILE_LOCK hold the error number of fsync of a folder, of fsync and
   fdatasync of a file, and of flock. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static int refuse(const char *variable) {
  const char *number = getenv(variable);
  if (number == NULL) return 0;
  errno = atoi(number);
  return 1;
}

int fsync(int descriptor) {
  struct stat found;
  int is_folder = fstat(descriptor, &found) == 0 && S_ISDIR(found.st_mode);
  if (refuse(is_folder ? "FOLDER_SYNC" : "FILE_SYNC")) return -1;
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}

int fdatasync(int descriptor) {
  if (refuse("FILE_SYNC")) return -1;
  return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(descriptor);
}

int flock(int descriptor, int operation) {
  if (refuse("FILE_LOCK")) return -1;
  return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(descriptor, operation);
}
