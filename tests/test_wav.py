"""Sound files against samples known beforehand, other readers, and whatever is wrong with them."""

import os
import struct
import sys
import wave

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm import LSTM, Embedding, Last, Linear, Sequential, Softmax, cli, save
from fastlstm.cli import run as cli_run
from fastlstm.wav import Sound

GUID = bytes.fromhex("000000001000800000aa00389b71")
TWO = np.array([[-1.0, 0.5], [0.25, -0.125], [0.0, 0.75]])  # (T, channels), exact in 8 bits


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test runs in a folder of its own, so that names are short and files can be listed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chunk(name, data, size=None):
    size = len(data) if size is None else size
    return struct.pack("<4sI", name, size) + data + b"\0" * (len(data) % 2)


def form(coding, channels, bits, rate=16000, extensible=False, valid=None):
    frame = channels * -(-bits // 8)
    tag = 0xFFFE if extensible else coding
    head = struct.pack("<HHIIHH", tag, channels, rate, rate * frame, frame, bits)
    if extensible:
        head += struct.pack("<HHIH", 22, valid or bits, 0, coding) + GUID
    return chunk(b"fmt ", head)


def riff(*chunks, size=None, head=b"RIFF"):
    body = b"WAVE" + b"".join(chunks)
    return struct.pack("<4sI", head, len(body) if size is None else size) + body


def put(data, name="x.wav"):
    with open(name, "wb") as file:
        file.write(data)


def samples(data, coding=1, channels=1, bits=16, **options):
    put(riff(form(coding, channels, bits, **options), chunk(b"data", data)))
    return np.asarray(Sound("x.wav"))


def pcm(values, bits):
    """Samples as bytes of little-endian integers; of 8 bits they are unsigned."""
    width = -(-bits // 8)
    whole = np.round(np.ravel(values) * 2.0 ** (8 * width - 1)).astype(np.int64)
    if width == 1:
        whole += 128
    return b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in whole)


# What is read


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 24, 32, 12, 20])
def test_pcm(bits, extensible, channels):
    """Extensible 24-bit PCM is what most editors write; `wave` of Python 3.11 refuses it."""
    expected = TWO[:, :channels]
    got = samples(pcm(expected, bits), 1, channels, bits, extensible=extensible)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.float64


def test_pcm_at_its_ends():
    for width, low, high in ((1, 0, 255), (2, -(2**15), 2**15 - 1), (3, -(2**23), 2**23 - 1)):
        data = b"".join(n.to_bytes(width, "little", signed=width > 1) for n in (low, high))
        top = 1 - 2.0 ** (1 - 8 * width)
        np.testing.assert_array_equal(samples(data, bits=8 * width), [[-1], [top]])
    data = struct.pack("<2i", -(2**31), 2**31 - 1)
    np.testing.assert_array_equal(samples(data, bits=32), [[-1], [1 - 2.0**-31]])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("bits", [32, 64])
def test_floating_point(bits, extensible, channels):
    """Values are read as they are, beyond 1 and down to the smallest numbers."""
    expected = np.array([[1.5, -2.0], [1e-40, -1e30], [0.1, 0.0]])[:, :channels]
    expected = expected.astype(f"<f{bits // 8}")
    got = samples(expected.tobytes(), 3, channels, bits, extensible=extensible)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype


def test_valid_bits_of_a_wider_frame():
    """24 bits lie at the upper end of 32, as the format says."""
    got = samples(pcm(TWO, 32), 1, 2, 32, extensible=True, valid=24)
    np.testing.assert_array_equal(got, TWO)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_pieces_are_parts_of_the_whole(bits):
    values = np.random.default_rng(bits).integers(-128, 128, (40, 3)) / 128.0
    np.testing.assert_array_equal(samples(pcm(values, bits), 1, 3, bits), values)
    sound = Sound("x.wav")
    assert sound.shape == (40, 3) and sound.rate == 16000
    for start, stop in ((0, 1), (3, 17), (39, 99), (40, 50)):
        np.testing.assert_array_equal(sound[start:stop], values[start:stop])


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_what_the_standard_library_writes(width):
    values = np.random.default_rng(width).integers(-128, 128, (9, 2)) / 128.0
    with wave.open("x.wav", "wb") as file:
        file.setparams((2, width, 44100, 0, "NONE", ""))
        file.writeframes(pcm(values, 8 * width))
    np.testing.assert_array_equal(Sound("x.wav"), values)
    assert Sound("x.wav").rate == 44100


def test_other_chunks_are_passed_over():
    """A chunk of odd size has a byte of filling; what is behind the samples is not read."""
    data = pcm(TWO, 8)[:5]
    parts = [
        chunk(b"LIST", b"INFOabc"),
        chunk(b"JUNK", b""),
        form(1, 1, 8),
        chunk(b"bext", b"x" * 601),
        chunk(b"data", data),
        struct.pack("<4sI", b"late", 0xFFFFFFFF),
    ]
    put(riff(*parts))
    np.testing.assert_array_equal(Sound("x.wav")[:, :][:, 0], np.ravel(TWO)[:5])


@pytest.mark.parametrize("size", [0, 4, 0xFFFFFFFF, 0x7FFFFFFF])
def test_the_size_of_the_whole_is_not_needed(size):
    put(riff(form(1, 2, 16), chunk(b"data", pcm(TWO, 16)), size=size))
    np.testing.assert_array_equal(Sound("x.wav"), TWO)


@pytest.mark.parametrize("sizes", [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (0, 0xFFFFFFFF)])
@pytest.mark.parametrize("rest", [b"", b"ab"])
def test_what_was_written_into_a_pipe(sizes, rest):
    """Its writer did not know the size, or was killed: samples go to the last whole frame."""
    size, whole = sizes
    put(riff(form(1, 2, 16), chunk(b"data", pcm(TWO, 16) + rest, size=size), size=whole))
    np.testing.assert_array_equal(Sound("x.wav"), TWO)


def test_rf64():
    data = pcm(TWO, 16)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, len(data), 3, 0))
    tail = chunk(b"LIST", b"behind")
    put(
        riff(
            ds64, form(1, 2, 16), chunk(b"data", data, size=0xFFFFFFFF), tail,
            head=b"RF64", size=0xFFFFFFFF,
        )
    )  # fmt: skip
    np.testing.assert_array_equal(Sound("x.wav"), TWO)


def test_soundfile_and_scipy_agree():
    soundfile = pytest.importorskip("soundfile", reason="an independent writer")
    values = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    for kind in ("WAV", "WAVEX", "RF64"):
        for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"):
            soundfile.write("x.wav", values, 48000, subtype, format=kind)
            expected, _ = soundfile.read("x.wav", always_2d=True)
            np.testing.assert_array_equal(Sound("x.wav"), expected)


# What is refused


def refused(data, sentence):
    put(data)
    with pytest.raises(ValueError) as caught:
        Sound("x.wav")
    assert str(caught.value).removeprefix("x.wav cannot be read as PCM .wav: ") == sentence


OK_DATA = chunk(b"data", bytes(8))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it does not begin as a RIFF or RF64 file of WAVE does"),
        (b"RIFX\0\0\0\0WAVE", "it does not begin as a RIFF or RF64 file of WAVE does"),
        (riff(), "it holds no samples"),
        (riff(form(1, 1, 16)), "it holds no samples"),
        (riff(form(1, 1, 16)) + b"dat", "it holds no samples"),
        (riff(OK_DATA, form(1, 1, 16)), "its samples come before their format"),
        (riff(chunk(b"fmt ", bytes(14)), OK_DATA), "its format must have 16 bytes or more, got 14"),
        (
            riff(chunk(b"fmt ", bytes(16), 0xFFFFFFFF), OK_DATA),
            "its chunk 'fmt ' of 4294967295 bytes ends behind the file",
        ),
        (
            riff(form(1, 1, 16), chunk(b"LIST", b"", 0xFFFFFFF0), OK_DATA),
            "its chunk 'LIST' of 4294967280 bytes ends behind the file",
        ),
        (
            riff(form(7, 1, 8), OK_DATA),
            "its samples are 8 bits of mu-law; expected PCM of 8 to 32 bits, or floating point of "
            "32 or 64",
        ),
        (
            riff(form(0x2000, 1, 16), OK_DATA),
            "its samples are 16 bits of coding 8192; expected PCM of 8 to 32 bits, or floating "
            "point of 32 or 64",
        ),
        (
            riff(form(3, 1, 16), OK_DATA),
            "its samples are 16 bits of floating point; expected PCM of 8 to 32 bits, or floating "
            "point of 32 or 64",
        ),
        (
            riff(form(1, 1, 64), OK_DATA),
            "its samples are 64 bits of PCM; expected PCM of 8 to 32 bits, or floating point of 32 "
            "or 64",
        ),
        (
            riff(form(1, 1, 16, rate=0), OK_DATA),
            "its rate must be at least one sample a second, got 0",
        ),
        (
            riff(form(1, 1, 0), OK_DATA),
            "its samples are 0 bits of PCM; expected PCM of 8 to 32 bits, or floating point of 32 "
            "or 64",
        ),
        (
            riff(form(1, 0, 16), OK_DATA),
            "a frame of 0 channels of 16 bits must take 0 bytes, at least 1, got 0",
        ),
        (
            riff(form(1, 2, 16), chunk(b"data", bytes(7))),
            "its 7 bytes of samples must be a multiple of 4",
        ),
        (
            riff(form(1, 2, 16), chunk(b"data", bytes(8), 4000)),
            "x.wav is cut off: expected 4000 bytes of samples, got 8",
        ),
        (
            riff(*[chunk(b"JUNK", b"")] * 10_000, form(1, 1, 16), OK_DATA),
            "it holds more than 10000 chunks before its samples",
        ),
        (
            riff(
                chunk(b"fmt ", struct.pack("<HHIIHH", 1, 2, 8000, 32000, 8, 16)), OK_DATA
            ),
            "a frame of 2 channels of 16 bits must take 4 bytes, at least 1, got 8",
        ),
    ],
    ids=range(20),
)  # fmt: skip
def test_what_is_refused(data, sentence):
    refused(data, sentence)


def test_an_extensible_format_of_another_family_is_refused():
    head = form(1, 1, 16, extensible=True)
    put(riff(head.replace(GUID, GUID[::-1]), OK_DATA))
    with pytest.raises(ValueError, match="coding 65534"):
        Sound("x.wav")


def test_a_file_without_steps_is_one_of_none():
    put(riff(form(1, 2, 16), chunk(b"data", b"")))
    assert Sound("x.wav")[:].shape == Sound("x.wav").shape == (0, 2)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    """Whatever bytes are changed, it gives samples of the file's size at most, or a sentence."""
    path = tmp_path_factory.getbasetemp() / "damaged.wav"
    whole = bytearray(
        riff(chunk(b"LIST", b"abc"), form(1, 2, 24, extensible=True), chunk(b"data", bytes(60)))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        length = data.draw(st.sampled_from([0, 1, 4, 40]))
        whole[place : place + length] = data.draw(
            st.sampled_from([b"", b"\0", b"\xff" * 4, b"\xff\xff\xff\x7f", b"data", b"\1"])
        )
        whole = whole or bytearray(b"R")
    path.write_bytes(whole)
    try:
        got = Sound(path)[:]
    except ValueError as fault:
        assert str(fault).startswith(str(path))
    else:
        assert got.size <= len(whole)


# Through the command


def run(model, *options):
    save(model, "model.npz")
    return cli.main(["run", "model.npz", "x.wav", "-o", "y.wav", "--engine", "numpy", *options])


def parsed(path):
    """The fields of what we write, by their places; the bytes of the samples."""
    with open(path, "rb") as file:
        data = file.read()
    riff_, size, wave_, fmt, fmt_size, *numbers = struct.unpack("<4sI4s4sIHHIIHHH", data[:38])
    assert (riff_, size, wave_) == (b"RIFF", len(data) - 8, b"WAVE") and (fmt, fmt_size) == (
        b"fmt ",
        18,
    )
    fact, fact_size, frames, data_, data_size = struct.unpack("<4sII4sI", data[38:58])
    assert (fact, fact_size, data_, data_size) == (b"fact", 4, b"data", len(data) - 58)
    return numbers, frames, data[58:]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("dtype", "bits"), [("float32", 32), ("float64", 64)])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_to_wav_keeps_the_rate(channels, dtype, bits, chunked, monkeypatch):
    values = np.random.default_rng(0).integers(-128, 128, (30, channels)) / 128.0
    samples(pcm(values, 24), 1, channels, 24, rate=22050, extensible=True)
    model = Sequential(
        LSTM(channels, 5, engine="numpy", seed=1, dtype=dtype),
        Linear(5, channels, seed=2, dtype=dtype),
    ).eval()
    if chunked:
        monkeypatch.setattr(cli_run, "CHUNK_VALUES", 20 * 7)
    assert run(model) == 0
    numbers, frames, data = parsed("y.wav")
    width = bits // 8
    assert numbers == [3, channels, 22050, 22050 * channels * width, channels * width, bits, 0]
    expected = model(values.astype(dtype))
    assert frames == 30 and len(data) == expected.nbytes
    got = np.frombuffer(data, f"<f{width}").reshape(-1, channels)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(Sound("y.wav"), got)
    os.replace("y.wav", "x.wav")  # what comes out goes in
    assert run(model) == 0 and Sound("y.wav").rate == 22050


def test_other_readers_read_what_we_write():
    samples(pcm(TWO, 16), 1, 2, 16, rate=8000)
    model = LSTM(2, 2, engine="numpy", seed=1)
    assert run(model) == 0
    expected = model.eval()(TWO.astype(np.float32))[0]
    wavfile = pytest.importorskip("scipy.io.wavfile", reason="an independent reader")
    rate, got = wavfile.read("y.wav")
    assert rate == 8000
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_a_wav_input_is_not_read_as_a_whole(monkeypatch):
    samples(pcm(np.zeros((50, 2)), 16), 1, 2, 16)
    seen, get = [], Sound.__getitem__
    monkeypatch.setattr(
        Sound,
        "__getitem__",
        lambda sound, key: seen.append(len(get(sound, key))) or get(sound, key),
    )
    monkeypatch.setattr(cli_run, "CHUNK_VALUES", 20 * 10)
    assert run(LSTM(2, 5, engine="numpy")) == 0
    assert seen == [10] * 5


def test_refusals_of_wav_out(capsys):
    samples(pcm(TWO, 16), 1, 2, 16)
    np.save("x.npy", TWO.astype(np.float32))
    save(LSTM(2, 2), "model.npz")
    assert cli.main(["run", "model.npz", "x.npy", "-o", "y.wav"]) == 1
    sentence = "fastlstm: error: y.wav needs a rate, which only a .wav input has: write .npy\n"
    assert capsys.readouterr().err == sentence
    assert run(Sequential(LSTM(2, 3), Last(), Linear(3, 2))) == 1
    assert "y.wav needs values for every step, model.npz gives those of" in capsys.readouterr().err
    assert run(Sequential(LSTM(2, 70_000, bias=False, proj_size=1), Linear(1, 70_000))) == 1
    assert "3 steps of 70000 values are more than a .wav file holds" in capsys.readouterr().err
    assert run(Sequential(Embedding(3, 2), LSTM(2, 3))) == 1
    assert "x.wav must hold whole numbers" in capsys.readouterr().err
    assert not os.path.exists("y.wav")


@pytest.mark.parametrize("shape", [(2, 1, 3), (2, 3)])
def test_a_state_of_a_stream_begins_a_wav(shape):
    """It may have the axis of one sequence, as `Stream.state` gives it, or not."""
    values = np.random.default_rng(0).integers(-128, 128, (20, 2)) / 128.0
    model = LSTM(2, 3, num_layers=2, engine="numpy", seed=1).eval()
    stream = model.stream()
    x = values.astype(np.float32)
    stream.run(x[:12, None])
    h, c = stream.state
    np.savez("s.npz", h=h.reshape(shape), c=c.reshape(shape))
    samples(pcm(values[12:], 16), 1, 2, 16)
    assert run(model, "--state-in", "s.npz") == 0
    np.testing.assert_allclose(Sound("y.wav"), stream.run(x[12:, None])[:, 0], rtol=0, atol=1e-6)
    np.save("x.npy", x[12:, None])
    arguments = ["run", "model.npz", "x.npy", "-o", "y.npy", "--state-in", "s.npz"]
    assert cli.main([*arguments, "--engine", "numpy"]) == 0
    np.testing.assert_allclose(np.load("y.npy")[:, 0], Sound("y.wav"), rtol=0, atol=1e-6)


def test_a_state_of_several_sequences_is_refused(capsys):
    samples(pcm(TWO, 16), 1, 2, 16)
    np.savez("s.npz", h=np.zeros((1, 2, 3)), c=np.zeros((1, 2, 3)))
    assert run(LSTM(2, 3, engine="numpy"), "--state-in", "s.npz") == 1
    assert capsys.readouterr().err.startswith(
        "fastlstm: error: s.npz: Expected hidden[0] size (1, 1, 3), got [1, 2, 3]"
    )


def test_softmax_over_features_goes_by_steps():
    samples(pcm(TWO, 16), 1, 2, 16)
    assert run(Sequential(LSTM(2, 2, engine="numpy"), Softmax())) == 0
    np.testing.assert_allclose(Sound("y.wav")[:].sum(1), 1, rtol=0, atol=1e-6)
    assert sys.byteorder in ("little", "big")
