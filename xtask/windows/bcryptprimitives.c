/* The one function of Windows' bcryptprimitives.dll that Rust's standard library imports (for the seeds of hash maps), for a wine that
   has no such library: before version 9. SystemFunction036 is RtlGenRandom. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG bytes);

__declspec(dllexport) BOOL WINAPI ProcessPrng(BYTE *data, SIZE_T bytes)
{
    while (bytes > 0) {
        ULONG part = bytes > 1 << 30 ? 1 << 30 : (ULONG)bytes;
        if (!SystemFunction036(data, part))
            return FALSE;
        data += part;
        bytes -= part;
    }
    return TRUE;
}
