// Preloaded into a process, it lets the processor's identification (CPUID) show no AVX-512, VNNI or AMX, so that a
// library which looks for them takes its AVX2 kernels. Linux on x86-64, on a processor that can trap CPUID.
//
//     cc -O1 -shared -fPIC avx2_only.c -o avx2_only.so && LD_PRELOAD=./avx2_only.so python ...

#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static void identify(int signal_number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
    if (instruction[0] != 0x0f || instruction[1] != 0xa2) {  // a real fault: let it happen again, unhandled
        signal(SIGSEGV, SIG_DFL);
        return;
    }
    const unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX];
    unsigned a = leaf, b, c = subleaf, d;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && subleaf == 0) {
        b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));  // AVX-512
        c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));                                  // AVX-512, VNNI
        d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(22) | BIT(23) | BIT(24) | BIT(25));               // AVX-512, AMX
    } else if (leaf == 7 && subleaf == 1) {
        a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23));  // AVX-VNNI, AVX-512, AMX, AVX-IFMA
        d = 0;                                        // AVX-VNNI-INT8, AVX-VNNI-INT16 and later ones
    }
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
    struct sigaction action = {0};
    action.sa_sigaction = identify;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, 0);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) != 0) {
        fputs("avx2_only: this processor or system cannot trap CPUID\n", stderr);
        _exit(125);
    }
}
