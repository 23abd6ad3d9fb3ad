// Runs work groups on the CPU: each GPU thread is a fiber with its own stack, all on the calling thread. A fiber runs until it
// reaches a barrier or a subgroup operation; the group goes on when all threads (or all of a subgroup) have reached the same
// one. Between two of those the fibers run in a chosen order, so a missing barrier shows as a wrong result in one of them.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <vector>

namespace {

enum State : uint8_t { ready, at_barrier, at_subgroup, done };

struct Fiber {
    void* stack_pointer;
    ucontext_t context;
    char* stack;
    State state;
    unsigned line;
    // What a subgroup meets for, and with what of this fiber.
    void (*meet)(void** all, unsigned count);
    void* mine;
};

constexpr size_t stack_bytes = 128 << 10;

struct Group {
    std::vector<Fiber> fibers;
    std::vector<unsigned> order;
    void* scheduler_pointer;
    ucontext_t scheduler;
    unsigned current, threads, subgroup, position[3];
    void (*body)(void**);
    void** buffers;
    bool beyond_image;
} group;

// Switching fibers saves the callee-saved registers and the stack pointer, nothing else.
#if defined(__x86_64__)
extern "C" void standin_switch(void** save, void* to);
asm(R"(
.text
.globl standin_switch
.hidden standin_switch
standin_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

void to_scheduler() {
    Fiber& me = group.fibers[group.current];
#if defined(__x86_64__)
    standin_switch(&me.stack_pointer, group.scheduler_pointer);
#else
    swapcontext(&me.context, &group.scheduler);
#endif
}

void entry() {
    group.body(group.buffers);
    group.fibers[group.current].state = done;
    to_scheduler();
    abort();
}

void prepare(Fiber& fiber) {
    if (!fiber.stack) fiber.stack = static_cast<char*>(aligned_alloc(64, stack_bytes));
    fiber.state = ready;
#if defined(__x86_64__)
    // As if `entry` had been called: the return address, then six registers; the stack is 16-byte aligned before the call.
    void** top = reinterpret_cast<void**>(fiber.stack + stack_bytes) - 2;
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.stack_pointer = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#endif
}

void resume(unsigned index) {
    group.current = index;
#if defined(__x86_64__)
    standin_switch(&group.scheduler_pointer, group.fibers[index].stack_pointer);
#else
    swapcontext(&group.scheduler, &group.fibers[index].context);
#endif
}

// Whether fibers from..to all wait in `state` at the same line.
bool together(unsigned from, unsigned to, State state) {
    for (unsigned i = from; i < to; i++)
        if (group.fibers[i].state != state || group.fibers[i].line != group.fibers[from].line ||
            (state == at_subgroup && group.fibers[i].meet != group.fibers[from].meet))
            return false;
    return true;
}

// Lets everybody go on who can. 0: somebody can; 1: all are done; 2: nobody can.
int release() {
    bool any = false;
    for (unsigned from = 0; from < group.threads; from += group.subgroup) {
        unsigned to = from + group.subgroup < group.threads ? from + group.subgroup : group.threads;
        if (!together(from, to, at_subgroup)) continue;
        std::vector<void*> all;
        for (unsigned i = from; i < to; i++) all.push_back(group.fibers[i].mine), group.fibers[i].state = ready;
        group.fibers[from].meet(all.data(), to - from);
        any = true;
    }
    if (any) return 0;
    if (together(0, group.threads, at_barrier)) {
        for (unsigned i = 0; i < group.threads; i++) group.fibers[i].state = ready;
        return 0;
    }
    for (unsigned i = 0; i < group.threads; i++)
        if (group.fibers[i].state != done) return 2;
    return 1;
}

}

extern "C" {

// The local memory of all kernels, put into one section by their declarations.
extern char __start_standin_local[] __attribute__((weak));
extern char __stop_standin_local[] __attribute__((weak));

void standin_barrier(unsigned line) {
    Fiber& me = group.fibers[group.current];
    me.state = at_barrier, me.line = line;
    to_scheduler();
}

// Waits for the whole subgroup; the last to come does `meet` with what all of them bring.
void standin_together(void* mine, void (*meet)(void** all, unsigned count), unsigned line) {
    Fiber& me = group.fibers[group.current];
    me.state = at_subgroup, me.line = line, me.meet = meet, me.mine = mine;
    to_scheduler();
}

static void add_all(void** all, unsigned count) {
    float sum = 0.0f;
    for (unsigned i = 0; i < count; i++) sum += *static_cast<float*>(all[i]);
    for (unsigned i = 0; i < count; i++) *static_cast<float*>(all[i]) = sum;
}

float standin_subgroup_sum(float value, unsigned line) {
    standin_together(&value, add_all, line);
    return value;
}

// A pixel of an image, which is where its first byte lies and how many there are.
void standin_pixel(const uint64_t* image, int index, unsigned* pixel) {
    bool inside = index >= 0 && (uint64_t(index) + 1) * 16 <= image[1];
    group.beyond_image |= !inside;
    if (inside) memcpy(pixel, reinterpret_cast<const char*>(image[0]) + 16 * uint64_t(index), 16);
    else memset(pixel, 0xff, 16);
}

unsigned standin_local_id() { return group.current; }
unsigned standin_group_id(unsigned axis) { return group.position[axis]; }
unsigned standin_subgroup_size() { return group.subgroup; }
unsigned standin_subgroups() { return (group.threads + group.subgroup - 1) / group.subgroup; }
float standin_exp(float x) { return expf(x); }
float standin_log(float x) { return logf(x); }
float standin_tanh(float x) { return tanhf(x); }
float standin_sqrt(float x) { return sqrtf(x); }

// Runs a grid. order 0: forward, 1: reverse, else shuffled from this seed. Returns 0, or the lines where two threads wait that
// should wait together: first | second << 16, where 0xffff stands for a thread that has returned; 0xffffffff where a thread read
// beyond an image.
unsigned standin_run(void (*body)(void**), void** buffers, unsigned threads, const unsigned* groups, unsigned subgroup,
                     unsigned order) {
    group.body = body, group.buffers = buffers, group.beyond_image = false;
    group.threads = threads, group.subgroup = subgroup;
    if (group.fibers.size() < threads) group.fibers.resize(threads);
    group.order.resize(threads);
    for (unsigned i = 0; i < threads; i++) group.order[i] = order == 1 ? threads - 1 - i : i;
    uint64_t seed = order;
    unsigned total = groups[0] * groups[1] * groups[2];
    for (unsigned index = 0; index < total; index++) {
        // Groups too run in the chosen direction.
        unsigned at = order == 0 ? index : total - 1 - index;
        group.position[0] = at % groups[0];
        group.position[1] = at / groups[0] % groups[1];
        group.position[2] = at / groups[0] / groups[1];
        // Not a number, whether read as float or half: uninitialized local memory shows.
        if (__start_standin_local) memset(__start_standin_local, 0xff, __stop_standin_local - __start_standin_local);
        for (unsigned i = 0; i < threads; i++) prepare(group.fibers[i]);
        for (int more = 0; more == 0;) {
            if (order > 1)
                for (unsigned i = threads; i > 1; i--) {
                    seed = seed * 6364136223846793005u + 1442695040888963407u;
                    unsigned other = (seed >> 33) % i, last = group.order[i - 1];
                    group.order[i - 1] = group.order[other], group.order[other] = last;
                }
            for (unsigned i = 0; i < threads; i++)
                if (group.fibers[group.order[i]].state == ready) resume(group.order[i]);
            more = release();
            if (more == 2) {
                unsigned lines[2], found = 0;
                for (unsigned i = 0; i < threads && found < 2; i++) {
                    const Fiber& fiber = group.fibers[i];
                    unsigned line = fiber.state == done ? 0xffff : fiber.line;
                    if (found == 0 || line != lines[0]) lines[found++] = line;
                }
                return lines[0] | (found > 1 ? lines[1] : lines[0]) << 16;
            }
        }
    }
    return group.beyond_image ? 0xffffffff : 0;
}

}
