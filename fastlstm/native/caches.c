/* The data caches of this machine: what the processor says of itself (x86), or the system of it. */

#include "system.h"

#include "internal.h"

/* Where nothing tells, or what it tells cannot be: those of a small machine of today. */
static const fl_caches usual = {.l1 = 32 << 10, .l2 = 512 << 10, .l3 = 8 << 20, .l3_sharers = 4};

#if defined(__x86_64__) || (defined(__linux__) && !defined(FL_NO_THREADS))

/* Keep what is told of the cache of a level. */
static void keep(fl_caches *caches, int level, int64_t bytes, int32_t sharers)
{
    if (level == 1)
        caches->l1 = bytes;
    else if (level == 2)
        caches->l2 = bytes;
    else if (level == 3) {
        caches->l3 = bytes;
        caches->l3_sharers = sharers;
    }
}

#endif

#if defined(__x86_64__)

#include <cpuid.h>

/* Leaf 4 of Intel and leaf 0x8000001d of AMD have the same form: one cache for each number until the type is 0. No
processor has MOST_CACHES, but a virtual machine may give the same answer for every number. */
#define MOST_CACHES 16

static void ask(fl_caches *caches)
{
    const unsigned leaves[] = {4, 0x8000001d};
    for (int n = 0; n < 2; n++) {
        unsigned a, b, c, d;
        for (unsigned cache = 0; cache < MOST_CACHES; cache++) {
            if (!__get_cpuid_count(leaves[n], cache, &a, &b, &c, &d) || !(a & 31))
                break;
            if ((a & 31) == 2) /* It holds instructions. */
                continue;
            int level = a >> 5 & 7;
            int64_t ways = (b >> 22) + 1, partitions = (b >> 12 & 1023) + 1, line = (b & 4095) + 1;
            int64_t bytes = ways * partitions * line * ((int64_t)c + 1);
            keep(caches, level, bytes, (int32_t)(a >> 14 & 4095) + 1);
        }
        if (caches->l1)
            return;
    }
}

#elif defined(__APPLE__) && !defined(FL_NO_THREADS)

#include <sys/sysctl.h>

static int64_t number(const char *name)
{
    int64_t value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) ? 0 : value;
}

/* Of the fast cores. Several of them share the second level, and there is no third. */
static void ask(fl_caches *caches)
{
    int64_t sharers = number("hw.perflevel0.cpusperl2");
    caches->l1 = number("hw.perflevel0.l1dcachesize");
    caches->l2 = number("hw.perflevel0.l2cachesize") / (sharers > 0 ? sharers : 1);
}

#elif defined(__linux__) && !defined(FL_NO_THREADS)

#include <fcntl.h>

/* What a file of a cache of the first processor says, in `text`; "" if there is none. stdio would allocate. */
static void read_text(char cache, const char *name, char text[64])
{
    char path[96] = "/sys/devices/system/cpu/cpu0/cache/index?/";
    char *end = path + strlen(path);
    end[-2] = cache;
    strcpy(end, name);
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t bytes = file < 0 ? 0 : read(file, text, 63);
    text[bytes < 0 ? 0 : bytes] = 0;
    if (file >= 0)
        close(file);
}

/* The number with which a text begins, of at most nine digits. The text moves on behind it. */
static int32_t number_at(const char **text)
{
    int32_t number = 0;
    for (int digits = 0; digits < 9 && **text >= '0' && **text <= '9'; digits++)
        number = 10 * number + *(*text)++ - '0';
    return number;
}

/* How many processors a list such as 0-3,8-11 names. */
static int32_t listed(const char *text)
{
    int32_t count = 0;
    for (; *text >= '0' && *text <= '9'; text += *text == ',') {
        const int32_t from = number_at(&text);
        int32_t to = from;
        if (*text == '-') {
            text++;
            to = number_at(&text);
        }
        count += to - from + 1;
    }
    return count;
}

static void ask(fl_caches *caches)
{
    char text[64];
    for (char cache = '0'; cache <= '9'; cache++) {
        read_text(cache, "type", text);
        if (!text[0])
            return;
        if (!strcmp(text, "Instruction\n"))
            continue;
        const char *at = text;
        read_text(cache, "level", text);
        const int32_t level = number_at(&at);
        at = text;
        read_text(cache, "size", text);
        const int64_t size = number_at(&at);
        const int unit = *at == 'M' ? 20 : 10;
        read_text(cache, "shared_cpu_list", text);
        keep(caches, level, size << unit, listed(text));
    }
}

#else

static void ask(fl_caches *caches)
{
    *caches = usual;
}

#endif

static fl_caches look(void)
{
    fl_caches here = {0};
    ask(&here);
    /* Virtual machines can have any numbers, and some have none. */
    if (here.l1 < 4 << 10 || here.l1 > 1 << 20)
        here.l1 = usual.l1;
    if (here.l2 < 2 * here.l1 || here.l2 > 64 << 20)
        here.l2 = usual.l2;
    if (here.l3 < 0 || (here.l3 && here.l3 < here.l2))
        here.l3 = 0;
    if (here.l3_sharers < 1)
        here.l3_sharers = 1;
    return here;
}

#ifdef FL_NO_THREADS

fl_caches fl_caches_here(void)
{
    return look();
}

#else

static fl_caches found;

static void find(void)
{
    found = look();
}

fl_caches fl_caches_here(void)
{
    static fl_once once = FL_ONCE;
    fl_call_once(&once, find);
    return found;
}

#endif
