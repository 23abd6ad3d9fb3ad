/* What bionic has and glibc has not, or has otherwise. Only for runs under an emulator. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

int *__errno(void) { return __errno_location(); }

/* The version of Android, among others: unknown. */
int __system_property_get(const char *name, char *value) {
    (void)name;
    *value = 0;
    return 0;
}

/* bionic's pthread_attr_t is smaller than glibc's: glibc must never write one. */
int pthread_attr_init(pthread_attr_t *attributes) { return (void)attributes, 0; }
int pthread_attr_destroy(pthread_attr_t *attributes) { return (void)attributes, 0; }
int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t size) { return (void)attributes, (void)size, 0; }

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    (void)attributes;
    return real(thread, NULL, body, argument);
}

/* bionic's is POSIX's. */
int __xpg_strerror_r(int error, char *text, size_t length);
int bionic_strerror_r(int error, char *text, size_t length) __asm__("strerror_r");
int bionic_strerror_r(int error, char *text, size_t length) { return __xpg_strerror_r(error, text, length); }

/* bionic numbers these otherwise (bionic's bits/sysconf.h). */
long sysconf(int name) {
    long (*real)(int) = dlsym(RTLD_NEXT, "sysconf");
    switch (name) {
    case 0x27:
    case 0x28:
        return real(_SC_PAGESIZE);
    case 0x60:
        return real(_SC_NPROCESSORS_CONF);
    case 0x61:
        return real(_SC_NPROCESSORS_ONLN);
    default:
        return real(name);
    }
}

/* Where a program begins. */
int __libc_start_main(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
void __libc_init(uintptr_t *stack, void (*at_exit)(void), int (*main)(int, char **, char **), const void *structors) {
    (void)at_exit, (void)structors;
    __libc_start_main(main, (int)stack[0], (char **)(stack + 1), NULL, NULL, NULL, stack);
}
