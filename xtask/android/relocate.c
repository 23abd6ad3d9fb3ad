/* Relocations packed as Android's linker reads them ("APS2", bionic's linker_reloc_iterators.h): glibc's does not know them. */
#define _GNU_SOURCE
#include "relocate.h"
#include <elf.h>
#include <link.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PACKED = 0x60000011, PACKED_SIZE = 0x60000012 };
enum { BY_INFO = 1, BY_OFFSET = 2, BY_ADDEND = 4, HAS_ADDEND = 8 };

struct object {
    void *handle;
    uintptr_t base;
    const uint8_t *next, *end;
    const ElfW(Sym) *symbols;
    const char *names;
};

static void fail(const char *why) {
    fprintf(stderr, "packed relocations: %s\n", why);
    exit(1);
}

static int64_t number(struct object *object) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (object->next == object->end) fail("they end early");
        uint8_t byte = *object->next++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return (int64_t)(byte & 0x40 && shift < 57 ? value | -(uint64_t)1 << (shift + 7) : value);
    }
    fail("a number is too long");
    return 0;
}

static uintptr_t symbol(struct object *object, uint64_t index) {
    const ElfW(Sym) *symbol = &object->symbols[index];
    if (symbol->st_shndx != SHN_UNDEF) return object->base + symbol->st_value;
    void *found = dlsym(object->handle, object->names + symbol->st_name);
    if (!found && ELF64_ST_BIND(symbol->st_info) != STB_WEAK) fail(object->names + symbol->st_name);
    return (uintptr_t)found;
}

static void apply(struct object *object, uint64_t offset, uint64_t info, uint64_t addend) {
    uintptr_t *place = (uintptr_t *)(object->base + offset);
    switch (ELF64_R_TYPE(info)) {
    case R_AARCH64_RELATIVE:
        *place = object->base + addend;
        break;
    case R_AARCH64_GLOB_DAT:
    case R_AARCH64_ABS64:
        *place = symbol(object, ELF64_R_SYM(info)) + addend;
        break;
    default:
        fail("one of an unknown type");
    }
}

static void apply_all(struct object *object) {
    if (object->end - object->next < 4 || memcmp(object->next, "APS2", 4)) fail("not APS2");
    object->next += 4;
    uint64_t left = number(object), offset = number(object), addend = 0;
    while (left) {
        uint64_t count = number(object), flags = number(object);
        if (count == 0 || count > left) fail("a group is too large");
        uint64_t delta = flags & BY_OFFSET ? number(object) : 0, info = flags & BY_INFO ? number(object) : 0;
        if (!(flags & HAS_ADDEND)) addend = 0;
        if (flags & HAS_ADDEND && flags & BY_ADDEND) addend += number(object);
        for (uint64_t at = 0; at < count; at++) {
            offset += flags & BY_OFFSET ? delta : (uint64_t)number(object);
            if (!(flags & BY_INFO)) info = number(object);
            if (flags & HAS_ADDEND && !(flags & BY_ADDEND)) addend += number(object);
            apply(object, offset, info, addend);
        }
        left -= count;
    }
}

/* Makes the segments writable that the loader has protected already. */
static int unprotect(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    struct object *object = context;
    if (info->dlpi_addr != object->base) return 0;
    uintptr_t page = sysconf(_SC_PAGESIZE);
    for (int at = 0; at < info->dlpi_phnum; at++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[at];
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_W)) continue;
        uintptr_t from = (object->base + segment->p_vaddr) & -page, to = object->base + segment->p_vaddr + segment->p_memsz;
        if (mprotect((void *)from, to - from, PROT_READ | PROT_WRITE)) fail("mprotect");
    }
    return 1;
}

void relocate(void *handle) {
    struct link_map *map;
    if (dlinfo(handle, RTLD_DI_LINKMAP, &map)) fail(dlerror());
    struct object object = {.handle = handle, .base = map->l_addr};
    uint64_t packed = 0, size = 0;
    for (const ElfW(Dyn) *entry = map->l_ld; entry->d_tag != DT_NULL; entry++) {
        /* glibc turns the addresses that it knows into pointers. */
        uintptr_t pointer = entry->d_un.d_ptr < object.base ? object.base + entry->d_un.d_ptr : entry->d_un.d_ptr;
        switch (entry->d_tag) {
        case PACKED: packed = pointer; break;
        case PACKED_SIZE: size = entry->d_un.d_val; break;
        case DT_SYMTAB: object.symbols = (const ElfW(Sym) *)pointer; break;
        case DT_STRTAB: object.names = (const char *)pointer; break;
        }
    }
    if (!packed) return;
    object.next = (const uint8_t *)packed;
    object.end = object.next + size;
    dl_iterate_phdr(unprotect, &object);
    apply_all(&object);
}
