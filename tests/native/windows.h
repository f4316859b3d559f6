/* What the programs here use of C11 and POSIX, and Windows lacks. The compiler includes this before each of them. */

#define WIN32_LEAN_AND_MEAN

#include <windows.h>
#undef far
#undef near

#include <fcntl.h>
#include <io.h>
#include <malloc.h>
#include <process.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define aligned_alloc(alignment, bytes) _aligned_malloc(bytes, alignment)
#define free _aligned_free /* All that they free is of aligned_alloc. */

/* Input and output are bytes: without this, one that is a line feed would become two. */
static __attribute__((constructor)) void use_bytes(void)
{
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
}

static unsigned __stdcall end_late(void *seconds)
{
    Sleep(1000 * (DWORD)(uintptr_t)seconds);
    _exit(1);
}

static inline void alarm(unsigned seconds)
{
    _beginthreadex(NULL, 0, end_late, (void *)(uintptr_t)seconds, 0, NULL);
}
