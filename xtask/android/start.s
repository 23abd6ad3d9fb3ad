/* What the NDK's crtbegin_dynamic.o does: bionic begins a program with the stack as the kernel left it. */
    .text
    .globl _start
    .type _start, %function
_start:
    mov x29, #0
    mov x30, #0
    mov x0, sp
    mov x1, #0
    adrp x2, :got:main
    ldr x2, [x2, :got_lo12:main]
    mov x3, #0
    bl __libc_init
    .section .note.GNU-stack, "", %progbits
