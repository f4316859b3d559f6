"""The C API as a contract: what it refuses, what its real-time functions may do, what it exports.

Programs in tests/native are built as those of test_native_c.py are. Checks that are taken out of
the library, and steps that do what they may not, must be seen by the same programs.

`python tests/test_c_api.py` writes tests/native/abi.txt anew.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
from fl_files import write
from fl_models import EXACT
from test_native_c import (
    COMPILERS,
    FLAGS,
    HERE,
    ISAS,
    NATIVE,
    PROGRAMS,
    build,
    case,
    start_wine,
)

import fastlstm

__all__ = ["build", "start_wine"]  # fixtures

HEADER = (NATIVE / "fastlstm.h").read_text("utf-8")
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)
EXPORTED = set(re.findall(r"^FL_API [^(]*?(\w+)\(", CODE, re.M))
LINUX = sys.platform.startswith("linux")


# ---- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "compiler, isa",
    [case(c, isa) for c in COMPILERS for isa in ("baseline", *ISAS.get(c, HERE)[-1:])],
)
def test_arguments(build, compiler, isa):
    """Each wrong argument gets its status and changes nothing; right calls still work."""
    command = [*build(compiler, "arguments", "-O0"), isa]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks {isa}")
    assert ran.returncode == 0, ran.stdout + ran.stderr


# of a file: a text, and what stands there if a check is missing or wrong
FAULTS = {
    "alignment": ("checks.c", "(uintptr_t)memory % 64", "0"),
    "too_small": ("checks.c", "size < (size_t)needed ? FL_TOO_SMALL : FL_OK", "FL_OK"),
    "newer": ("checks.c", "if (((const char *)given)[n])", "if (0)"),
    "older": ("checks.c", "memset(own, 0, size);", "memset(own, 1, size);"),
    "apart": ("checks.c", "*)given + n * size", "*)given + n * sizeof *own"),
    "isa": ("checks.c", "!fl_isa_is_here(isa)", "isa < 0"),
    "large_shape": ("checks.c", "+ 4096) > MOST_BYTES)", "+ 4096) < 0)"),
    "large_call": ("checks.c", "(double)batch * (double)steps > stack->most_rows", "0"),
    "nan": ("checks.c", "o->gate_clip > 0", "!(o->gate_clip <= 0)"),
    "function": ("checks.c", "activation->function <= FL_SOFTPLUS", "1"),
    "unwanted": ("checks.c", "if (!array != !wanted)", "if (!array && wanted)"),
    "last_index": ("checks.c", "index >= call->table_rows", "index > call->table_rows"),
    "stride": ("checks.c", "(-filled < stride && stride < filled)", "0"),
    "far_stride": ("checks.c", "fabs((double)stride) * rows > MOST_BYTES", "0"),
    "rising": ("checks.c", "rises |= call->batch_sizes[t] > before;", ";"),
    "few_shares": ("checks.c", "cut->shares < cut->seats", "0"),
    "gradients": ("checks.c", "{a->b, 1},\n        {a->w_hr, cell->w_hr != NULL},",
                  "{a->b, a->b != NULL},\n        {a->w_hr, cell->w_hr != NULL},"),
    "null_x": ("stream.c", "if (!stream || !x || !y)", "if (!stream || !y)"),
    "directions": ("stream.c", "stack->shape.directions == 1 ?", "1 ?"),
    "one_direction": ("run.c", "direction >= stack->shape.directions", "0"),
    "too_late": ("stream.c", "    fl_status status = check_stream(stack, batch);",
                 "memset(memory, 1, 64); fl_status status = check_stream(stack, batch);"),
}  # fmt: skip


def broken(folder, name, file, old, new):
    """A copy of a source in a folder of this name, with another text in one place."""
    text = (NATIVE / file).read_text("utf-8")
    assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
    (folder / name).mkdir()
    (folder / name / file).write_text(text.replace(old, new), "utf-8")
    return folder / name / file


QUICK_FAULTS = ("alignment", "nan", "too_late")  # each takes a compiler's time


@pytest.mark.parametrize(
    "fault", [pytest.param(f, marks=[pytest.mark.slow] * (f not in QUICK_FAULTS)) for f in FAULTS]
)
def test_a_check_that_is_missing_would_be_seen(build, tmp_path, fault):
    source = broken(tmp_path, fault, *FAULTS[fault])
    command = build("gcc", "arguments", "-O0", source)
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode not in (0, 2), "nobody saw it"


# ---- real time ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of models of all kinds."""
    folder = tmp_path_factory.mktemp("models")
    for name, one in EXACT.items():
        (folder / f"{name}.fl").write_bytes(write(one.model))
    return sorted(folder.iterdir())


def run_realtime(command, *arguments):
    """What the program realtime ended with, and what it said."""
    if not LINUX:
        pytest.skip("traps are made for Linux")
    ran = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if ran.returncode == 77:
        pytest.skip("this system takes no filter of system calls")
    if ran.returncode == 2:
        pytest.skip(f"this machine lacks what {command} wants")
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("isa", ["baseline", *HERE])
def test_real_time(build, models, compiler, isa):
    """Steps, runs and states allocate nothing, take no lock and call nothing of the system."""
    assert run_realtime(build(compiler, "realtime", "-O0"), isa, *models) == (0, "done\n")


# what a step would do that it may not, and what ends it
UNREAL = {
    "malloc": ("free(malloc(8));", (3, "malloc was called\n")),
    "free": ("free(nothing);", (3, "free was called\n")),
    "lock": ("pthread_mutex_lock(&lock);", (3, "pthread_mutex_lock was called\n")),
    "clock": ("clock_gettime(0, &now);", (3, "clock_gettime was called\n")),
    "system_call": ("syscall(SYS_getppid);", (-31, "")),  # SIGSYS
}
INCLUDED = """#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
pthread_mutex_t lock;
struct timespec now;
void *volatile nothing;
"""


def unreal(folder, name):
    """A copy of stream.c whose steps do that."""
    text = (NATIVE / "stream.c").read_text("utf-8")
    head = re.search(r"^static inline fl_status advance\(.*?^\{\n", text, re.M | re.S)
    source = broken(folder, name, "stream.c", head[0], head[0] + UNREAL[name][0])
    source.write_text(INCLUDED + source.read_text("utf-8"), "utf-8")
    return source


@pytest.mark.parametrize("name", UNREAL)
def test_a_step_that_is_not_real_time_would_be_seen(build, tmp_path, name):
    if not LINUX:
        pytest.skip("traps are made for Linux")
    command = build("gcc", "realtime", "-O0", unreal(tmp_path, name))
    assert run_realtime(command) == UNREAL[name][1]


@pytest.mark.slow  # compiles all anew
def test_real_time_by_the_sanitizer(models, tmp_path):
    """Clang's own trap; a step that allocates shows that it is there."""
    flags = [*FLAGS, "-O1", "-g", "-fsanitize=realtime", f"-I{NATIVE}"]
    probe = ["clang", "-fsanitize=realtime", "-x", "c", "-", "-o", os.devnull]
    if not shutil.which("clang"):
        pytest.skip("no clang here")
    if subprocess.run(probe, input=b"int main(void) { return 0; }", capture_output=True).returncode:
        pytest.skip("this clang has no RealtimeSanitizer: it came with Clang 20")
    sources = sorted(NATIVE.glob("*.c"))
    for stream in (NATIVE / "stream.c", unreal(tmp_path, "malloc")):
        own = [stream if source.name == "stream.c" else source for source in sources]
        made = tmp_path / "realtime"
        subprocess.run(
            ["clang", *flags, PROGRAMS / "realtime.c", *own, "-lm", "-o", made], check=True
        )
        right = run_realtime([made], "baseline", *models) == (0, "done\n")
        assert right == (stream.parent == NATIVE)


# ---- what is exported -----------------------------------------------------------------------

PROGRAM = """\
#include <stdio.h>
#include "fastlstm.h"
#define SIZE(type) printf("%s %zu\\n", #type, sizeof(type))
#define FIELD(type, field) printf("%s.%s %zu %zu\\n", #type, #field, offsetof(type, field), \\
                                  sizeof(((type *)0)->field))
#define VALUE(name) printf("%s = %d\\n", #name, (int)name)
int main(void)
{{
{lines}
    return 0;
}}
"""


def abi_program():
    """A program that prints the size of each structure, where its fields are, and all constants."""
    lines = []
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", CODE, re.S):
        lines.append(f"SIZE({name});")
        for declared in filter(str.strip, body.split(";")):
            pointer = re.search(r"\(\*(\w+)\)\(", declared)  # of a function
            first, *more = declared.split(",")
            names = (
                [pointer[1]] if pointer else [re.search(r"(\w+)\s*$", p)[1] for p in (first, *more)]
            )
            lines += [f"FIELD({name}, {field});" for field in names]
    for body in re.findall(r"enum \{(.*?)\}", CODE, re.S):
        lines += [
            f"VALUE({part.split('=')[0].strip()});" for part in body.split(",") if part.strip()
        ]
    lines.append("VALUE(FL_VERSION);")
    return PROGRAM.format(lines="\n".join(f"    {line}" for line in lines))


def abi(folder):
    """What that program prints, and the functions."""
    (folder / "abi.c").write_text(abi_program(), "utf-8")
    made = folder / "abi.exe"
    compiler = COMPILERS["gcc"]
    subprocess.run([*compiler, "-std=c11", f"-I{NATIVE}", folder / "abi.c", "-o", made], check=True)
    told = subprocess.check_output([made], text=True)
    return told + "".join(f"{name}()\n" for name in sorted(EXPORTED))


ABI = PROGRAMS / "abi.txt"
ABI_HEAD = """\
# The binary interface of the C library on 64-bit machines: sizes of structures, where their fields
# are and how large, constants, functions. Programs that were compiled with an older header rely on
# each line: within a major version, lines may be added, and none may change or go, but for sizes of
# structures that begin with struct_size. `python tests/test_c_api.py` writes this file.
"""


@pytest.mark.skipif(sys.maxsize < 2**32, reason="tells what 64-bit machines have")
def test_abi(tmp_path):
    """Whoever changes it changes the stored text too, and sees what that means for programs."""
    assert ABI_HEAD + abi(tmp_path) == ABI.read_text("utf-8")


def test_every_field_and_constant_is_in_the_abi():
    text = ABI.read_text("utf-8")
    names = set(re.findall(r"\bFL_\w+", CODE)) - {"FL_API", "FL_BUILD_DLL", "FL_DLL"}
    assert {n for n in names if not re.search(rf"^{n} = ", text, re.M)} == set()
    sizes = re.findall(r"^(fl_\w+) (\d+)$", text, re.M)
    assert len(sizes) == len(re.findall(r"typedef struct \{", CODE)) > 10
    for name, size in sizes:  # nothing lies behind the last field but padding
        fields = re.findall(rf"^{name}\.(\w+) (\d+) (\d+)$", text, re.M)
        ends = [int(at) + int(bytes_) for _, at, bytes_ in fields]
        assert ends == sorted(ends) and 0 <= int(size) - ends[-1] < 8, name


def test_version():
    major, minor, patch = (int(part) for part in re.findall(r"\d+", fastlstm.__version__)[:3])
    told = re.search(r"^#define FL_VERSION (\d+)$", HEADER, re.M)
    assert int(told[1]) == 10000 * major + 100 * minor + patch


def symbols(command, *paths):
    """What a tool of binutils says, line by line."""
    if not (LINUX and shutil.which(command[0])):
        pytest.skip("reads ELF files by binutils")
    return subprocess.check_output([*command, *paths], text=True).splitlines()


def test_symbols(build):
    """Every name that is not static begins with fl_; those of the header alone are not hidden."""
    found = {}
    for line in symbols(["readelf", "-sW"], *build.objects("gcc", "-O0")):
        parts = line.split()
        if len(parts) == 8 and parts[4] in ("GLOBAL", "WEAK") and parts[6] != "UND":
            found[parts[7]] = parts[5]
    assert [name for name in found if not name.startswith("fl_")] == []
    assert {name for name, kind in found.items() if kind == "DEFAULT"} == EXPORTED
    assert {kind for name, kind in found.items() if name not in EXPORTED} == {"HIDDEN"}


@pytest.mark.slow  # compiles all for a shared library
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_symbols_of_a_shared_library(compiler, tmp_path):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    made = tmp_path / "libfastlstm.so"
    sources = sorted(NATIVE.glob("*.c"))
    subprocess.run(
        [compiler, *FLAGS, "-O0", "-fPIC", "-shared", *sources, "-lm", "-o", made], check=True
    )
    names = {line.split()[-1] for line in symbols(["nm", "-D", "--defined-only"], made)}
    assert {name for name in names if name not in ("_init", "_fini")} == EXPORTED


def test_the_extension_exports_nothing_of_it(native):
    """Two versions of the library in one process would otherwise take each other's functions."""
    names = [line.split()[-1] for line in symbols(["nm", "-D", "--defined-only"], native.__file__)]
    assert [name for name in names if name.startswith("fl_")] == []
    assert "PyInit__native" in names


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        ABI.write_text(ABI_HEAD + abi(pathlib.Path(place)), "utf-8")
