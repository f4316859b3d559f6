"""The C library as CMake builds it: options, what is installed, what uses it, other processors."""

import os
import pathlib
import platform
import re
import shutil
import subprocess

import pytest

import fastlstm

ROOT = pathlib.Path(__file__).parents[1]
NATIVE = pathlib.Path(fastlstm.get_include())
PROGRAMS = ROOT / "tests" / "native"
SMALL = ["-DFASTLSTM_ISA=baseline", "-DFASTLSTM_DTYPE=float"]
PORTABLE = [*SMALL, "-DFASTLSTM_THREADS=OFF", "-DFASTLSTM_TRAINING=OFF"]
# The compiler, the emulator, and what else configures: small machines that have no vectors.
MACHINES = {
    "x86": ("gcc", None, []),
    "arm": ("arm-linux-gnueabihf-gcc", "qemu-arm", ["-DCMAKE_SYSTEM_NAME=Linux"]),
    "riscv64": ("riscv64-linux-gnu-gcc", "qemu-riscv64", ["-DCMAKE_SYSTEM_NAME=Linux"]),
}
X86 = platform.machine().lower() in ("x86_64", "amd64")

pytestmark = [
    pytest.mark.skipif(not shutil.which("cmake"), reason="needs CMake"),
    pytest.mark.skipif(os.name == "nt", reason="the tools have other names"),
]


def run(*command, cwd=None):
    """Run a command, which must succeed; return what it prints."""
    ran = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def configure(folder, *options):
    """The finished process of a configuration; a warning of the compiler is an error."""
    flags = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror"]
    command = ["cmake", "-S", NATIVE, "-B", folder, *flags, *options]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def build(folder, *options):
    """Configure and build into a folder, which is returned."""
    configured = configure(folder, *options)
    assert configured.returncode == 0, configured.stdout
    run("cmake", "--build", folder, "--parallel", "2")
    return folder


def ctest_of(folder):
    """The names of the tests that ctest runs there, all of which pass."""
    told = run("ctest", "--output-on-failure", cwd=folder)
    return set(re.findall(r"Test +#\d+: (\w+) \.+ +Passed", told))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a build with the baseline and float alone."""
    return build(tmp_path_factory.mktemp("clib"), *SMALL)


def test_it_runs_its_tests(small):
    assert ctest_of(small) >= {"steps_baseline", "teams"}


def test_it_is_installed_and_used(small, tmp_path):
    """By find_package and by pkg-config, shared and static, from a folder that was moved."""
    run("cmake", "--install", small, "--prefix", tmp_path / "first")
    prefix = (tmp_path / "first").rename(tmp_path / "moved away")
    header = (NATIVE / "fastlstm.h").read_bytes()
    assert (prefix / "include" / "fastlstm.h").read_bytes() == header
    # only the consumer: the examples want both types of number, and make clib builds them
    check = tmp_path / "tests" / "consumer"
    shutil.copytree(ROOT / "tests" / "consumer", check)
    told = run(check / "check.sh", prefix, tmp_path / "programs")
    compilers = sum(shutil.which(name) is not None for name in ("gcc", "clang"))
    assert len(re.findall(r"#\d: fastlstm(?:_static)? \.+ +Passed", told)) == 2 * compilers
    if shutil.which("pkg-config"):
        assert len(re.findall(r"^fastlstm \d+, baseline: off by \S+", told, re.M)) == 2 * compilers


def test_pkg_config_where_folders_are_given_as_whole_paths(tmp_path):
    """As some distributions give them: the description has no path below another one."""
    shutil.which("pkg-config") or pytest.skip("no pkg-config here")
    folders = {"libdir": tmp_path / "other" / "lib", "includedir": tmp_path / "include"}
    options = [f"-DCMAKE_INSTALL_{name.upper()}={folder}" for name, folder in folders.items()]
    configured = configure(tmp_path / "build", *SMALL, *options)
    assert configured.returncode == 0, configured.stdout
    (folders["libdir"] / "pkgconfig").mkdir(parents=True)
    description = folders["libdir"] / "pkgconfig" / "fastlstm.pc"
    shutil.copy(tmp_path / "build" / "fastlstm.pc", description)
    for name, folder in folders.items():
        told = run("pkg-config", f"--variable={name}", description).strip()
        assert os.path.normpath(told) == str(folder)


def test_it_can_be_unloaded(small, tmp_path):
    """Its threads end with it, awake or asleep."""
    program = tmp_path / "unload"
    run("cc", "-std=gnu11", f"-I{NATIVE}", PROGRAMS / "unload.c", "-ldl", "-o", program)
    assert run(program, small / "libfastlstm.so") == "unloaded\n"


def test_what_the_shared_library_exports(small):
    """Every function of the header, and nothing else."""
    header = (NATIVE / "fastlstm.h").read_text("utf-8")
    declared = set(re.findall(r"^FL_API [^;(]*?(fl_\w+)\(", header, re.M))
    (library,) = (path for path in small.glob("libfastlstm.so.*.*") if not path.is_symlink())
    told = run("nm", "--dynamic", "--defined-only", library)
    assert len(declared) > 30
    assert {line.split()[2] for line in told.splitlines()} == declared


@pytest.mark.skipif(not shutil.which("readelf"), reason="asks readelf")
def test_the_shared_library_finds_all_when_it_is_loaded(small):
    """The first step in a real-time thread has nothing to look up."""
    assert re.search(r"\(FLAGS_1\).*\bNOW\b", run("readelf", "--dynamic", small / "libfastlstm.so"))


def test_the_version_is_the_package_s(small):
    major, minor, patch = map(int, fastlstm.__version__.split("."))
    header = (NATIVE / "fastlstm.h").read_text("utf-8")
    assert f"#define FL_VERSION {10000 * major + 100 * minor + patch}\n" in header
    assert (small / f"libfastlstm.so.{fastlstm.__version__}").exists()
    assert f"Version: {fastlstm.__version__}\n" in (small / "fastlstm.pc").read_text()


@pytest.mark.parametrize(
    "option, fault",
    [
        ("-DFASTLSTM_ISA=avx2;sse9", "it has 'sse9'"),
        ("-DFASTLSTM_DTYPE=half", "FASTLSTM_DTYPE is both, float or double"),
        ("-DFASTLSTM_SHARED=OFF -DFASTLSTM_STATIC=OFF", "nothing to build"),
    ],
)
def test_wrong_options_are_refused(tmp_path, option, fault):
    configured = configure(tmp_path, *option.split())
    assert configured.returncode and fault in " ".join(configured.stdout.split())


def test_an_instruction_set_of_another_processor_is_refused(tmp_path):
    """By the compiler, which alone knows the processor."""
    macros = [
        "-DFL_NO_BASELINE",
        *(["-DFL_NO_AVX2", "-DFL_NO_AVX512"] if X86 else ["-DFL_NO_NEON"]),
    ]
    command = ["cc", "-std=c11", *macros, "-fsyntax-only", NATIVE / "isa.c"]
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert ran.returncode and "none of the instruction sets that FASTLSTM_ISA names" in ran.stderr


# FL_OK, FL_UNSUPPORTED, ...: what has no way in is refused, and all else works.
ANSWERS = "0\n17\n0\n17 0\n17 17 0\n17\n8 0\n-1 0 none\n"
MACHINE_MARKS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name != "x86")) for name in MACHINES
]


@pytest.fixture(scope="module")
def portable(tmp_path_factory):
    """A function that builds the portable library for a machine; it returns the folder."""
    folders = {}

    def get(machine):
        compiler, emulator, options = MACHINES[machine]
        for tool in filter(None, (compiler, emulator)):
            shutil.which(tool) or pytest.skip(f"no {tool} here")
        if machine not in folders:
            options = [*PORTABLE, *options, f"-DCMAKE_C_COMPILER={compiler}"]
            options += ["-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
            if emulator:
                options.append(f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator}")
            folders[machine] = build(tmp_path_factory.mktemp(machine), *options)
        return folders[machine]

    return get


@pytest.mark.parametrize("machine", MACHINE_MARKS)
def test_the_portable_build(portable, machine, tmp_path):
    """Its tests pass there; what is left out says so; sizes that do not fit 32 bits are refused."""
    folder = portable(machine)
    assert ctest_of(folder) == {"steps_baseline"}
    compiler, emulator, _ = MACHINES[machine]
    program = tmp_path / "left_out"
    library = folder / "libfastlstm.a"
    run(compiler, "-std=c11", "-static", f"-I{NATIVE}", PROGRAMS / "left_out.c", library, "-lm",
        "-o", program)  # fmt: skip
    fits = 0 if machine == "arm" else 1
    assert run(*filter(None, (emulator, program))) == f"{ANSWERS}{fits}\n"


@pytest.mark.parametrize("machine", MACHINE_MARKS)
def test_the_portable_build_needs_no_system(portable, machine):
    """Nothing but arithmetic and copies is taken from the C library: no memory, files, threads."""
    folder = portable(machine)
    nm = MACHINES[machine][0].replace("gcc", "nm") if machine != "x86" else "nm"
    told = run(nm, folder / "libfastlstm.a")
    symbols = re.findall(r"^[0-9a-f ]*\b([A-Za-z]) (\S+)$", told, re.M)
    missing = {name for kind, name in symbols if kind == "U"}
    missing -= {name for kind, name in symbols if kind != "U"}
    missing = {name for name in missing if not name.startswith(("__aeabi_", "_GLOBAL_OFFSET"))}
    copies = {"memcpy", "memmove", "memset", "memcmp", "strcmp", "strlen"}
    guard = {"__stack_chk_fail", "__stack_chk_guard"}  # of a compiler that protects stacks unasked
    assert missing <= copies | guard | {"sqrt", "sqrtf", "fabs", "__divdi3"}


@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="compares with x86")
@pytest.mark.parametrize("machine", ["arm", "riscv64"])
def test_bits_of_the_portable_build(portable, machine, tmp_path):
    """The baseline gives the same bits on every processor: vectors of one number, or of four."""
    told = []
    for name in ("x86", machine):
        compiler, emulator, _ = MACHINES[name]
        program = tmp_path / name
        library = portable(name) / "libfastlstm.a"
        source = PROGRAMS / "portable_bits.c"
        run(compiler, "-std=c11", "-static", f"-I{NATIVE}", source, library, "-lm", "-o", program)
        told.append(run(*filter(None, (emulator, program))))
    assert told[0] == told[1] and len(set(told[0].split())) > 500


@pytest.mark.slow
@pytest.mark.parametrize(
    "threads, training, dtype",
    [
        ("ON", "ON", "both"),
        ("ON", "OFF", "double"),
        ("OFF", "ON", "double"),
        ("OFF", "OFF", "both"),
    ],
)
def test_every_pair_of_options(tmp_path, threads, training, dtype):
    """Each builds without a warning, one of a kind by Clang too, and passes its tests."""
    options = [f"-DFASTLSTM_THREADS={threads}", f"-DFASTLSTM_TRAINING={training}"]
    options += [f"-DFASTLSTM_DTYPE={dtype}", "-DFASTLSTM_ISA=baseline"]
    assert "steps_baseline" in ctest_of(build(tmp_path / "gcc", *options))
    if threads == training and shutil.which("clang"):
        build(tmp_path / "clang", *options, "-DCMAKE_C_COMPILER=clang", "-DFASTLSTM_SHARED=OFF")


@pytest.mark.slow
def test_it_builds_with_sanitizers(tmp_path):
    flags = "-DCMAKE_C_FLAGS=-fsanitize=address,undefined -fno-sanitize-recover=all"
    assert "steps_baseline" in ctest_of(build(tmp_path, *SMALL, flags))


def test_a_plugin_takes_the_static_library(tmp_path):
    """Whatever the flags, it becomes part of a shared library, which exports its own alone."""
    shutil.which("nm") or pytest.skip("no nm here")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(plugin LANGUAGES C)\n"
        "set(BUILD_SHARED_LIBS OFF)\n"
        f'add_subdirectory("{NATIVE}" fastlstm)\nadd_library(plugin MODULE plugin.c)\n'
        "target_link_libraries(plugin PRIVATE FastLstm::fastlstm)\n"
    )
    code = '#include "fastlstm.h"\nint plugin(void) { return fl_run(0, 0) + fl_isa(0); }\n'
    (tmp_path / "plugin.c").write_text(code)
    built = tmp_path / "build"
    flags = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-fno-pie"]
    run("cmake", "-S", tmp_path, "-B", built, *flags, *PORTABLE)
    run("cmake", "--build", built, "--parallel", "2")
    told = run("nm", "--dynamic", "--defined-only", built / "libplugin.so")
    assert [line.split()[2] for line in told.splitlines()] == ["plugin"]


def test_another_project_takes_the_folder(tmp_path):
    """By add_subdirectory, with the kind of library that BUILD_SHARED_LIBS says.

    What the project has for its own sources, fast arithmetic and many of them in one, stays there.
    """
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(other LANGUAGES C)\n"
        "set(BUILD_SHARED_LIBS OFF)\n"
        "set(CMAKE_UNITY_BUILD ON)\nadd_compile_options(-ffast-math)\n"
        f'add_subdirectory("{NATIVE}" fastlstm)\nadd_executable(other other.c)\n'
        "target_link_libraries(other PRIVATE FastLstm::fastlstm)\n"
    )
    code = '#include "fastlstm.h"\nint main(void) { return fl_version() != FL_VERSION; }\n'
    (tmp_path / "other.c").write_text(code)
    built = tmp_path / "build"
    run("cmake", "-S", tmp_path, "-B", built, "-DCMAKE_BUILD_TYPE=Debug", *PORTABLE)
    run("cmake", "--build", built, "--parallel", "2")
    assert not [*built.rglob("libfastlstm.so*")]
    run(built / "other")
