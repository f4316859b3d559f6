"""fastlstm.hpp, and the examples in C and C++: compiled by GCC and Clang, and compared with Python.

The kernels are compiled once without optimisation, which changes no bit, and linked to everything
here. What an installed library gives, by CMake and pkg-config, is left to the slow tests.
"""

import concurrent.futures
import functools
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import struct
import subprocess
import wave

import numpy as np
import pytest
from support import tolerance

import fastlstm
from fastlstm.wav import Sound, write_pieces

ROOT = pathlib.Path(__file__).parents[1]
NATIVE, PROGRAMS = ROOT / "fastlstm/native", ROOT / "tests/native"
C, CPP = ROOT / "examples/c", ROOT / "examples/cpp"
CLEAN = [f"-I{NATIVE}", "-pthread", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
IN_C = {name: [name, "-std=c11", "-ffp-contract=off", *CLEAN] for name in ("gcc", "clang")}
NO_EXCEPTIONS = ["-fno-exceptions", "-fno-rtti"]
IN_CPP = {
    f"{name}, C++{year}{', no exceptions' * bool(without)}": [
        name, f"-std=c++{year}", *without, *CLEAN
    ]
    for name in ("g++", "clang++")
    for year in (17, 20)
    for without in ([], NO_EXCEPTIONS)
}  # fmt: skip
QUICK = "g++, C++17", "clang++, C++20, no exceptions"  # every kind of build is in one of them
RATE = 48000


def load_example(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_models = load_example(C / "make_models.py")
speech = load_example(ROOT / "examples/speech.py")


def call(*command, **more):
    """Run a command, which must not fail, and return what it prints."""
    ran = subprocess.run([*map(str, command)], capture_output=True, text=True, **more)
    assert ran.returncode == 0, f"{shlex.join(map(str, command))}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def find(tool):
    return shutil.which(tool) or pytest.skip(f"no {tool} here")


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that compiles a program and returns its path; each is compiled once."""
    folder = tmp_path_factory.mktemp("examples")

    @functools.cache
    def kernels(compiler, extra):
        """The objects of the library."""
        sources = sorted(NATIVE.glob("*.c"))
        objects = [folder / f"{source.stem}-{compiler}{len(extra)}.o" for source in sources]
        command = [*IN_C[compiler], "-O0", *extra]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda s, o: call(*command, "-c", s, "-o", o), sources, objects))
        return objects

    @functools.cache
    def program(source, kind, *extra, library=()):
        command = IN_C.get(kind) or IN_CPP[kind]
        find(command[0])
        find("gcc")
        made = folder / f"program{len(list(folder.glob('program*')))}"
        objects = kernels("gcc", library)
        call(*command, "-O0", *extra, f"-I{C}", f"-I{CPP}", source, *objects, "-lm", "-o", made)
        return made

    return program


# --- models and sounds ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with models, and with amp.fl, which is trained for a short time."""
    folder = tmp_path_factory.mktemp("models")
    fastlstm.save(
        make_models.train(seconds=3, epochs=10).eval(), folder / "amp.fl", sample_rate=RATE
    )
    lstm = fastlstm.LSTM(3, 20, num_layers=2, seed=1)
    model = fastlstm.Sequential(lstm, fastlstm.Linear(20, 2, seed=1))
    fastlstm.save(model, folder / "values.fl", sample_rate=100)
    tokens = fastlstm.Embedding(5, 4, seed=2), fastlstm.LSTM(4, 6, seed=2)
    fastlstm.save(fastlstm.Sequential(*tokens), folder / "indices.fl")
    other = fastlstm.LSTM(1, 40, batch_first=True, seed=3)
    head = fastlstm.Linear(40, 1, seed=3)
    other = fastlstm.Residual(fastlstm.Sequential(other, head))
    fastlstm.save(other, folder / "other.fl", sample_rate=RATE)
    return folder


@pytest.fixture(scope="module")
def amp(folder):
    return fastlstm.load(folder / "amp.fl")


@pytest.fixture(scope="module")
def stereo():
    """A second of two strings, (samples, 2), float32."""
    sides = [make_models.strings(1, seed)[-9999:] for seed in (5, 6)]
    return np.stack(sides, axis=1).astype(np.float32)


def write_wav(path, samples, size=None, rate=RATE):
    """Write samples (N, channels): float32, or as integers of `size` bytes."""
    if size is None:
        with open(path, "wb") as file:
            write_pieces(file, [samples], None, rate)
        return
    whole = np.round(samples * (2.0 ** (8 * size - 1) - 1)).astype("<i4")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(size)
        file.setframerate(rate)
        file.writeframes(whole.view(np.uint8).reshape(-1, 4)[:, :size].tobytes())


def in_python(model, samples):
    """What a stream of the model makes of each channel (samples, channels)."""
    streams = [model.stream().run(side[None, :, None])[0, :, 0] for side in samples.T]
    return np.stack(streams, axis=1)


def assert_same(model, got, expected):
    """Bits of the native engine are those of C; other engines are as near as the rounding of sums.

    A step's error goes on in the states, which forget it: gates of 33 terms and an output of 32.
    """
    assert got.shape == expected.shape
    if model.layer[0].engine == "native":
        assert np.array_equal(got, expected)
    else:
        np.testing.assert_allclose(got, expected, **tolerance("numba", "float32", 33 * 32, 10))


# --- fastlstm.hpp ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k not in QUICK)) for k in IN_CPP]
)
def test_the_wrapper(build, folder, kind):
    """Values are C's, errors are told, moved objects work, nothing is allocated while it runs."""
    program = build(PROGRAMS / "wrapper.cpp", kind, *(["-O2"] * (kind not in QUICK)))
    assert call(program, folder / "values.fl", folder / "indices.fl") == ""


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize("older", ["-std=c++14", "-D_MSVC_LANG=201402L"])
def test_what_is_older_than_it_is_told(tmp_path, compiler, older):
    """Visual Studio's default too, whose __cplusplus tells nothing."""
    find(compiler)
    source = tmp_path / "old.cpp"
    source.write_text('#include "fastlstm.hpp"\n')
    command = [compiler, "-fsyntax-only", f"-I{NATIVE}", older, source]
    ran = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert ran.returncode and "fastlstm.hpp needs C++17 or later" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", ["wrapper", "plugin"])
def test_no_leak_and_nothing_out_of_bounds(build, folder, program):
    flags = "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
    made = build(PROGRAMS / f"{program}.cpp", "g++, C++17", *flags, library=flags)
    models = ("values", "indices") if program == "wrapper" else ("amp", "other")
    more = () if program == "wrapper" else (50,)
    assert call(made, *(folder / f"{name}.fl" for name in models), *more) == ""


# Faults of the wrapper, each of which its test must find: what is replaced, and by what.
WRONG = {
    "the state is not moved": ("session_.pointer_ = made;", "session_.pointer_ = nullptr;"),
    "sizes are not checked": ("!fits(x.size(), detail::product(batch_, info_.input))", "!*this"),
    "memory leaks": ("::operator delete(data_, std::align_val_t{64});", ""),
    "one row is computed": ("call.rows = static_cast<std::int64_t>(rows);", "call.rows = 1;"),
    "the bias is forgotten": ("{w.b, 4 * H, 1, arrays.b}", "{{}, 4 * H, 1, arrays.b}"),
    "a run allocates": ("fl_model_call call{};", "fl_model_call call{}; Memory more(64);"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", WRONG)
def test_faults_of_the_wrapper_are_found(build, folder, tmp_path, fault):
    header, (right, wrong) = (NATIVE / "fastlstm.hpp").read_text("utf-8"), WRONG[fault]
    assert right in header
    (tmp_path / "fastlstm.hpp").write_text(header.replace(right, wrong), "utf-8")
    source = shutil.copy(PROGRAMS / "wrapper.cpp", tmp_path)
    program = build(source, "g++, C++17")
    ran = subprocess.run([program, folder / "values.fl", folder / "indices.fl"])
    assert ran.returncode != 0


# --- the amplifier --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IN_C)
@pytest.mark.parametrize("size", [None, 2, 3, 4])
def test_amp_gives_what_python_gives(build, folder, amp, stereo, tmp_path, kind, size):
    """In stereo, from floats and from integers of each size."""
    write_wav(tmp_path / "in.wav", stereo, size)
    program = build(C / "amp.c", kind)
    said = call(program, folder / "amp.fl", tmp_path / "in.wav", tmp_path / "out.wav")
    assert re.fullmatch(r"0\.21 s of sound, 2 channels, took .* s on one core \(\w+\): .*\n", said)
    out = Sound(tmp_path / "out.wav")
    assert out.rate == RATE and out[:].dtype == np.float32
    heard = Sound(tmp_path / "in.wav")[:].astype(np.float32)
    assert_same(amp, out[:], in_python(amp, heard))


def test_stereo_is_two_monos_in_blocks_of_any_size(build, folder, stereo, tmp_path):
    program, sides = build(C / "amp.c", "gcc"), []
    for name, sound in ("both", stereo), ("left", stereo[:, :1]), ("right", stereo[:, 1:]):
        write_wav(tmp_path / f"{name}.wav", sound)
        for block in (64, 1, 1000):
            out = tmp_path / f"{name}-{block}.wav"
            call(program, folder / "amp.fl", tmp_path / f"{name}.wav", out, block)
            assert out.read_bytes() == (tmp_path / f"{name}-64.wav").read_bytes()
        sides.append(Sound(tmp_path / f"{name}-64.wav")[:])
    both, left, right = sides
    assert np.array_equal(both, np.concatenate([left, right], axis=1))
    assert not np.array_equal(left, right)


def test_the_training_learns_the_formula(amp):
    """In seconds it comes near; the sound itself is far from what the formula makes of it."""
    sound = make_models.strings(5, 1000)
    assert make_models.error_to_signal(sound, make_models.formula(sound)) > 0.5
    assert make_models.test(amp) < 0.1


def extensible(path, samples):
    """Write a file of 24 bits whose coding is said behind the format, as many programs do."""
    data = (np.round(samples * 2**23).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]).tobytes()
    channels = samples.shape[1]
    guid = bytes.fromhex("0100000000001000800000aa00389b71")
    form = struct.pack(
        "<HHIIHHHHI", 0xFFFE, channels, RATE, RATE * 3 * channels, 3 * channels, 24, 22, 24, 3
    )
    chunks = b"fmt " + struct.pack("<I", 40) + form + guid
    chunks += b"LIST" + struct.pack("<I", 5) + b"hello\0"  # of an odd size
    chunks += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks)


def test_wav_files_with_more_chunks(build, folder, amp, stereo, tmp_path):
    extensible(tmp_path / "in.wav", stereo / 2)
    call(build(C / "amp.c", "gcc"), folder / "amp.fl", tmp_path / "in.wav", tmp_path / "out.wav")
    heard = Sound(tmp_path / "in.wav")[:].astype(np.float32)
    assert_same(amp, Sound(tmp_path / "out.wav")[:], in_python(amp, heard))


@pytest.fixture(scope="module")
def bad(folder, stereo, tmp_path_factory):
    """A folder of files that are no sound, or no model."""
    bad = tmp_path_factory.mktemp("bad")
    write_wav(bad / "good.wav", stereo[:100])
    good = (bad / "good.wav").read_bytes()
    (bad / "text.wav").write_bytes(b"This is not a sound at all.")
    (bad / "empty.wav").write_bytes(b"")
    (bad / "cut.wav").write_bytes(good[:-1])
    (bad / "head.wav").write_bytes(good[:40])
    (bad / "coding.wav").write_bytes(good[:20] + b"\x07" + good[21:])
    (bad / "frame.wav").write_bytes(good[:32] + b"\x09" + good[33:])
    (bad / "rate.wav").write_bytes(good[:24] + bytes(4) + good[28:])
    write_wav(bad / "silent.wav", stereo[:0])
    model = (folder / "amp.fl").read_bytes()
    (bad / "damaged.fl").write_bytes(model[:3000] + bytes([model[3000] ^ 1]) + model[3001:])
    (bad / "cut.fl").write_bytes(model[:-64])
    (bad / "text.fl").write_bytes(b"This is not a model at all.")
    return bad


REFUSED = {
    "text.wav": "this is not a WAV file",
    "empty.wav": "this is not a WAV file",
    "cut.wav": "this WAV file is cut off",
    "head.wav": "this WAV file lacks its format or its samples",
    "coding.wav": "the samples of a WAV file must be PCM of 16, 24 or 32 bits, or floating point",
    "frame.wav": "the format of this WAV file is damaged",
    "rate.wav": "the format of this WAV file is damaged",
    "silent.wav": "this WAV file holds no samples",
    "none.wav": "cannot be opened",
    "damaged.fl": "the bytes of the model are not those that were written",
    "cut.fl": "the model has fewer bytes, or more, than it says",
    "text.fl": "this is not a model of fastlstm's",
    "none.fl": "cannot be opened",
    "values.fl": "the model must give one float for each float",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_amp_refuses(build, folder, bad, tmp_path, name):
    """A file that is no sound or no model: a sentence that names it, exit code 1, and no output."""
    where = folder if name == "values.fl" else bad
    model = where / name if name.endswith(".fl") else folder / "amp.fl"
    sound = where / name if name.endswith(".wav") else bad / "good.wav"
    command = [build(C / "amp.c", "gcc"), model, sound, tmp_path / "out.wav"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith(f"{where / name}: {REFUSED[name]}"), ran.stderr
    assert not (tmp_path / "out.wav").exists()


def test_amp_says_how_it_is_used_and_warns_of_another_rate(build, folder, stereo, tmp_path):
    program = build(C / "amp.c", "gcc")
    ran = subprocess.run([program], capture_output=True, text=True)
    usage = "usage: amp MODEL.fl IN.wav OUT.wav [BLOCK]\n"
    assert (ran.returncode, ran.stderr) == (2, usage)
    write_wav(tmp_path / "in.wav", stereo, rate=44100)
    command = [program, folder / "amp.fl", tmp_path / "in.wav", tmp_path / "out.wav"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0
    assert "in.wav: warning: 44100 samples a second, but the model is made for 48000" in ran.stderr
    nowhere = subprocess.run(
        [*command[:-1], tmp_path / "no/out.wav"], capture_output=True, text=True
    )
    assert nowhere.returncode == 1 and "no/out.wav: cannot be written" in nowhere.stderr


# --- Silero VAD -----------------------------------------------------------------------------------


# As in test_examples.py: a float32 sum of n terms is exact to n eps, relative to its terms.
TOLERANCE = np.finfo(np.float32).eps * (256 + 387 + 384 + 192 + 192 + 256 + 128)


@pytest.fixture(scope="module")
def vad(folder):
    pytest.importorskip("onnx")
    if importlib.util.find_spec("silero_vad") is None:  # not imported: it would import torch
        pytest.skip("needs silero-vad==6.2.3")
    make_models.main(["vad", "-o", str(folder)])
    return folder / "vad.fl"


def probabilities(program, *files):
    """When frames begin, and their probabilities, as the program prints them."""
    lines = np.array([line.split() for line in call(program, *files).splitlines()])
    return lines[:, 0].astype(float), lines[:, 1].astype(np.float32)


def heard(sound):
    """Silero's probabilities of a sound, by its own file."""
    detector = speech.SpeechDetector(speech.find_model())
    return np.array([detector(frame) for frame in speech.frames_of(sound)])


@pytest.mark.parametrize("kind", IN_C)
def test_vad_gives_what_silero_gives(build, vad, tmp_path, kind):
    sound, _ = speech.synthesise()
    write_wav(tmp_path / "in.wav", sound[:, None], rate=16000)
    begins, got = probabilities(build(C / "vad.c", kind), vad, tmp_path / "in.wav")
    expected = heard(sound)
    assert np.abs(got - expected).max() < TOLERANCE
    assert expected.min() < 0.01 and expected.max() > 0.99  # both kinds were there
    np.testing.assert_allclose(begins, np.arange(len(got)) * 0.032, atol=5.1e-4)


def test_vad_hears_the_mean_of_the_channels(build, vad, tmp_path):
    sound = speech.synthesise()[0][32000:-10000]
    write_wav(tmp_path / "in.wav", np.stack([sound, 0 * sound], axis=1), rate=16000)
    _, got = probabilities(build(C / "vad.c", "gcc"), vad, tmp_path / "in.wav")
    assert np.abs(got - heard(sound / 2)).max() < TOLERANCE


WITHOUT = {
    "context": ("memmove(frame, frame + HOP, CONTEXT * sizeof(float));", ""),
    "memory": ("const double start", "fl_session_reset(session, NULL); const double start"),
}


@pytest.mark.parametrize("what", WITHOUT)
def test_the_comparison_finds_a_broken_vad(build, vad, tmp_path, what):
    right, wrong = WITHOUT[what]
    program = (C / "vad.c").read_text("utf-8")
    assert right in program
    (tmp_path / "vad.c").write_text(program.replace(right, wrong), "utf-8")
    sound, _ = speech.synthesise()
    write_wav(tmp_path / "in.wav", sound[:, None], rate=16000)
    _, got = probabilities(build(tmp_path / "vad.c", "gcc"), vad, tmp_path / "in.wav")
    assert np.abs(got - heard(sound)).max() > 10 * TOLERANCE


def test_what_vad_refuses(build, vad, folder, bad, stereo, tmp_path):
    program = build(C / "vad.c", "gcc")
    write_wav(tmp_path / "in.wav", stereo)
    for model, sound, why in [
        (vad, bad / "text.wav", f"{bad / 'text.wav'}: this is not a WAV file"),
        (bad / "damaged.fl", bad / "good.wav", "not those that were written"),
        (folder / "amp.fl", bad / "good.wav", "the model must give one float for each frame"),
        (vad, tmp_path / "in.wav", "expected a sound of 16000 samples a second, as the model is "
         "made for, got 48000"),
    ]:  # fmt: skip
        ran = subprocess.run([program, model, sound], capture_output=True, text=True)
        assert ran.returncode == 1 and why in ran.stderr and ran.stdout == "", ran.stderr


def test_make_models_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps silero-vad==6.2.3"):
        make_models.silero_weights()


# --- the plugin -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUICK)
def test_the_core_of_the_plugin(build, folder, kind):
    """Channels do not mix, models are exchanged while it plays, and the audio allocates nothing."""
    program = build(PROGRAMS / "plugin.cpp", kind)
    assert call(program, folder / "amp.fl", folder / "other.fl", 200) == ""


@pytest.mark.slow
def test_the_plugin_has_no_race(build, folder):
    flags = "-g", "-fsanitize=thread"
    made = build(PROGRAMS / "plugin.cpp", "g++, C++17", *flags)
    assert call(made, folder / "amp.fl", folder / "other.fl", 50) == ""


def test_the_host_plays_a_file(build, folder, amp, stereo, tmp_path):
    """Through one model, and through two, the second of which is loaded in the middle."""
    program, out = build(CPP / "plugin.cpp", "g++, C++17"), tmp_path / "out.wav"
    write_wav(tmp_path / "in.wav", stereo)
    said = call(program, folder / "amp.fl", out, tmp_path / "in.wav")
    assert re.fullmatch(r"0\.21 s of sound, 2 channels, took .* times real time\n", said)
    whole = Sound(out)[:].copy()
    assert_same(amp, whole, in_python(amp, stereo))
    other, middle = fastlstm.load(folder / "other.fl"), len(stereo) // 2 // 64 * 64
    call(program, folder / "amp.fl", out, tmp_path / "in.wav", folder / "other.fl")
    both = Sound(out)[:]
    assert np.array_equal(both[:middle], whole[:middle])
    assert_same(other, both[middle:], in_python(other, stereo[middle:]))


def test_the_host_makes_a_sound(build, folder, amp, tmp_path):
    program, out = build(CPP / "plugin.cpp", "g++, C++17"), tmp_path / "out.wav"
    call(program, folder / "amp.fl", out)
    played = Sound(out)[:]
    assert played.shape == (2 * RATE, 2) and 0.1 < np.abs(played).max() < 2
    ran = subprocess.run([program, tmp_path / "none.fl", out], capture_output=True, text=True)
    assert ran.returncode == 1 and "none.fl: cannot be opened" in ran.stderr
    ran = subprocess.run([program], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr[:14]) == (2, "usage: plugin ")


# Faults of the plugin's core: what is replaced, by what, and what the test says of it.
WRONG_CORE = {
    "a state is shared": (
        "amp_->sessions[channel]", "amp_->sessions[0]", b"the two channels are those of two models",
    ),
    "the audio frees": (
        "gone_.store(amp_.release(), std::memory_order_release);", "amp_.reset();",
        b"the thread of the audio takes and gives back no memory",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_CORE)
def test_faults_of_the_core_are_found(build, folder, tmp_path, fault):
    right, wrong, said = WRONG_CORE[fault]
    core = (CPP / "amp_core.hpp").read_text("utf-8")
    assert right in core
    (tmp_path / "examples/cpp").mkdir(parents=True)
    (tmp_path / "examples/cpp/amp_core.hpp").write_text(core.replace(right, wrong), "utf-8")
    (tmp_path / "tests/native").mkdir(parents=True)
    source = shutil.copy(PROGRAMS / "plugin.cpp", tmp_path / "tests/native")
    program = build(source, "g++, C++17")
    ran = subprocess.run(
        [program, folder / "amp.fl", folder / "other.fl", "9"], capture_output=True
    )
    assert ran.returncode == 1 and said in ran.stdout


# --- an installed library -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """A folder into which CMake has installed the library."""
    find("cmake")
    folder = tmp_path_factory.mktemp("installed")
    call(
        "cmake", "-S", NATIVE, "-B", folder / "build", f"-DCMAKE_INSTALL_PREFIX={folder / 'prefix'}"
    )
    call("cmake", "--build", folder / "build", "--parallel", os.cpu_count())
    call("cmake", "--install", folder / "build")
    return folder / "prefix"


@pytest.mark.slow
@pytest.mark.parametrize("cc, cxx", [("gcc", "g++"), ("clang", "clang++")])
def test_the_examples_with_an_installed_library(prefix, folder, amp, stereo, tmp_path, cc, cxx):
    """As their CMakeLists.txt say, and as the README's line with pkg-config does."""
    find(cc), find(cxx)
    write_wav(tmp_path / "in.wav", stereo)
    expected = in_python(amp, stereo)
    for source, compiler in (C, f"-DCMAKE_C_COMPILER={cc}"), (CPP, f"-DCMAKE_CXX_COMPILER={cxx}"):
        made = tmp_path / source.name
        call("cmake", "-S", source, "-B", made, f"-DCMAKE_PREFIX_PATH={prefix}", compiler)
        call("cmake", "--build", made)
    files = folder / "amp.fl", tmp_path / "in.wav", tmp_path / "out.wav"
    call(tmp_path / "c/amp", *files)
    assert_same(amp, Sound(files[2])[:], expected)
    call(tmp_path / "cpp/plugin", files[0], files[2], files[1])
    assert_same(amp, Sound(files[2])[:], expected)
    find("pkg-config")
    where = os.environ | {"PKG_CONFIG_PATH": str(next(prefix.glob("lib*/pkgconfig")))}
    flags = call("pkg-config", "--cflags", "--libs", "--static", "fastlstm", env=where).split()
    library = str(next(prefix.glob("lib*")))
    call(cc, "-O2", C / "amp.c", *flags, f"-Wl,-rpath,{library}", "-o", tmp_path / "amp")
    call(tmp_path / "amp", *files)
    assert_same(amp, Sound(files[2])[:], expected)
