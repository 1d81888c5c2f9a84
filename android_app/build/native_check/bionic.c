/*
 * What libraries built for Android want of its C library, bionic, where glibc lacks it or does it
 * otherwise. It is preloaded, for x86-64 and arm64.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* The function of this name that glibc has. */
#define GLIBC(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* bionic's stdin, stdout and stderr: an array of structures of 152 bytes. */
enum { FILE_SIZE = 152 };
char __sF[3 * FILE_SIZE];

static FILE *glibc_file(FILE *file) {
  FILE *const files[] = {stdin, stdout, stderr};
  const size_t offset = (char *)file - __sF;
  return (char *)file >= __sF && offset < sizeof __sF ? files[offset / FILE_SIZE] : file;
}

int vfprintf(FILE *file, const char *format, va_list arguments) {
  return GLIBC(vfprintf)(glibc_file(file), format, arguments);
}

int fprintf(FILE *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int written = vfprintf(file, format, arguments);
  va_end(arguments);
  return written;
}

int fputc(int character, FILE *file) { return GLIBC(fputc)(character, glibc_file(file)); }
int fputs(const char *text, FILE *file) { return GLIBC(fputs)(text, glibc_file(file)); }
int fflush(FILE *file) { return GLIBC(fflush)(glibc_file(file)); }
int fileno(FILE *file) { return GLIBC(fileno)(glibc_file(file)); }
size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
  return GLIBC(fwrite)(data, size, count, glibc_file(file));
}

/* bionic's numbers for sysconf are others than glibc's, and these four have no meaning there. */
long sysconf(int name) {
  switch (name) {
    case 0x27:
    case 0x28:
      return 4096; /* bytes of a page */
    case 0x60:
      return get_nprocs_conf();
    case 0x61:
      return get_nprocs();
    default:
      return GLIBC(sysconf)(name);
  }
}

/*
 * XNNPACK for Android asks for less than the 64 bytes to which its AVX-512 kernels want memory
 * aligned: no phone has AVX-512.
 */
enum { ALIGNMENT = 64 };

int posix_memalign(void **memory, size_t alignment, size_t size) {
  return GLIBC(posix_memalign)(memory, alignment < ALIGNMENT ? ALIGNMENT : alignment, size);
}

void *memalign(size_t alignment, size_t size) {
  void *memory;
  return posix_memalign(&memory, alignment, size) ? NULL : memory;
}

/* bionic's set of signals has 8 bytes, as the kernel's; glibc's has 128. */
int sigfillset(sigset_t *set) {
  memset(set, 0xff, 8);
  return 0;
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
  return syscall(SYS_rt_sigprocmask, how, set, old, 8) ? errno : 0;
}

#ifdef __aarch64__
/*
 * bionic's mutex has 40 bytes. glibc's has 48, the last 8 of which its lock does not use, and its
 * own initialization would clear what stands behind bionic's.
 */
enum { MUTEX_SIZE = 40 };

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
  int kind = PTHREAD_MUTEX_NORMAL;
  if (attributes) pthread_mutexattr_gettype(attributes, &kind);
  memset(mutex, 0, MUTEX_SIZE);
  mutex->__data.__kind = kind;
  return 0;
}
#endif

/* XNNPACK is left out on versions of Android before 20. */
int __system_property_get(const char *name, char *value) {
  strcpy(value, strcmp(name, "ro.build.version.sdk") ? "" : "34");
  return (int)strlen(value);
}

int __android_log_vprint(int priority, const char *tag, const char *format, va_list arguments) {
  char text[1024];
  vsnprintf(text, sizeof text, format, arguments);
  return dprintf(2, "%d %s: %s\n", priority, tag, text);
}

int __android_log_print(int priority, const char *tag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int written = __android_log_vprint(priority, tag, format, arguments);
  va_end(arguments);
  return written;
}

int __android_log_write(int priority, const char *tag, const char *text) {
  return __android_log_print(priority, tag, "%s", text);
}

void android_set_abort_message(const char *text) { dprintf(2, "abort: %s\n", text); }

void __assert2(const char *file, int line, const char *function, const char *condition) {
  dprintf(2, "%s:%d: %s: %s\n", file, line, function, condition);
  abort();
}

int *__errno(void) { return &errno; }
char *__gnu_strerror_r(int error, char *text, size_t size) { return strerror_r(error, text, size); }

/* Checked variants that bionic has and glibc has not. */
int __open_2(const char *path, int flags) { return open(path, flags); }
size_t __strlen_chk(const char *text, size_t size) { return strlen(text); }
char *__strchr_chk(const char *text, int character, size_t size) { return strchr(text, character); }
char *__strrchr_chk(const char *text, int character, size_t size) {
  return strrchr(text, character);
}
ssize_t __write_chk(int file, const void *data, size_t count, size_t size) {
  return write(file, data, count);
}
