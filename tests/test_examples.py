"""The examples, on the networks that others trained: labels and probabilities, against their code.

g2pM and silero-vad carry the networks; where one is not installed its tests are skipped.
"""

import importlib.util
import os
import re
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

import fastlstm

EXAMPLES = Path(__file__).parent.parent / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pinyin = load_example("pinyin")
speech = load_example("speech")


@pytest.fixture(params=["numpy", "numba"])
def engine(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba")
    monkeypatch.setenv("FASTLSTM_ENGINE", request.param)


# --- pinyin ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def g2pm():
    """The package, its parameters, sentences, and how the package reads each character of them."""
    pytest.importorskip("g2pM")
    package, state = pinyin.load()
    sentences = pinyin.NATURAL + pinyin.varied(package, 200)
    return package, state, sentences, [package(s, char_split=True) for s in sentences]


@pytest.mark.usefixtures("engine")
def test_every_reading_is_that_of_g2pm(g2pm):
    package, state, sentences, expected = g2pm
    read = pinyin.Pinyin(package, state)
    assert read(sentences) == expected
    assert [read([sentence])[0] for sentence in sentences] == expected


def test_the_sentences_ask_for_nearly_every_character_of_several_readings(g2pm):
    package, _, sentences, _ = g2pm
    several = {c for c, readings in package.cedict.items() if len(readings) > 1}
    assert len(several & set("".join(sentences))) > 0.9 * len(several)
    lengths = {len(sentence) for sentence in sentences[len(pinyin.NATURAL) :]}
    assert min(lengths) == 3 and max(lengths) == 60
    assert pinyin.varied(package, 200) == sentences[len(pinyin.NATURAL) :]


def test_first_sentence_of_the_readme_of_g2pm(g2pm):
    package, state, _, _ = g2pm
    (readings,) = pinyin.Pinyin(package, state)(["然而，他红了20年以后，他竟退出了大家的视线。"])
    assert " ".join(readings) == (
        "ran2 er2 ， ta1 hong2 le5 2 0 nian2 yi3 hou4 ， "
        "ta1 jing4 tui4 chu1 le5 da4 jia1 de5 shi4 xian4 。"
    )


def test_text_without_any_choice_needs_no_network(g2pm):
    package, state, _, _ = g2pm
    assert pinyin.Pinyin(package, state)(["你们。", ""]) == [["ni3", "men5", "。"], []]


def swap_gates(array):
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, g, f, o])


SABOTAGES = {
    "two gates swapped": lambda s: {n: swap_gates(s[n]) for n in s if n.startswith("lstm.")},
    "forward weights in both directions": lambda s: {
        f"{n}_reverse": s[n] for n in s if n.endswith("_l0")
    },
    "a bias forgotten": lambda s: {"lstm.bias_hh_l0": 0 * s["lstm.bias_hh_l0"]},
    "one embedding shifted": lambda s: {"embedding.weight": np.roll(s["embedding.weight"], 1, 0)},
}


@pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)
def test_the_check_finds_a_broken_network(g2pm, sabotage):
    package, state, sentences, expected = g2pm
    broken = pinyin.Pinyin(package, {**state, **sabotage(state)})
    pinyin.check(sentences, pinyin.Pinyin(package, state)(sentences), expected)
    with pytest.raises(AssertionError, match="g2pM reads .*, fastlstm "):
        pinyin.check(sentences, broken(sentences), expected)


def test_the_check_finds_padding_that_is_read(g2pm, monkeypatch):
    package, state, sentences, expected = g2pm
    encode = pinyin.Pinyin._encode

    def without_lengths(self, sentences):
        ids, lengths = encode(self, sentences)
        return ids, np.full_like(lengths, lengths.max())

    monkeypatch.setattr(pinyin.Pinyin, "_encode", without_lengths)
    with pytest.raises(AssertionError):
        pinyin.check(sentences, pinyin.Pinyin(package, state)(sentences), expected)


@pytest.mark.parametrize(
    ("reading", "accented"),
    [
        ("hao3", "hǎo"),
        ("tou2", "tóu"),
        ("xue2", "xué"),
        ("gui4", "guì"),
        ("liu2", "liú"),
        ("lu:4", "lǜ"),
        ("lu:e4", "lüè"),
        ("er2", "ér"),
        ("de5", "de"),
        ("m2", "ḿ"),
        ("qian1 wa3", "qiān wǎ"),
        ("xx", "xx"),
    ],
)
def test_accents(reading, accented):
    assert pinyin.with_tone_mark(reading) == accented


def test_pinyin_as_a_program():
    pytest.importorskip("g2pM")
    output = subprocess.run(
        [sys.executable, EXAMPLES / "pinyin.py", "重庆的GPS很重要。", "走了20年"],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONUTF8": "1", "COLUMNS": "80"},
    ).stdout
    first, second = output.split("\n\n")[:2]
    assert first.split("\n") == [
        "chóng* qìng de* GpS hěn zhòng* yào* 。",
        "重     庆   的  GPS 很  重     要   。",
    ]
    assert second.split("\n")[0] == "zǒu le* 20 nián"
    assert f"{2 + len(pinyin.NATURAL) + 220} sentences" in output
    assert "all readings are" in output and "fastlstm, in one batch" in output


def test_pinyin_help(capsys):
    with pytest.raises(SystemExit) as leave:
        pinyin.main(["--help"])
    assert leave.value.code == 0 and "sentences" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE to imitate")
def test_pinyin_without_a_reader_is_quiet():
    pytest.importorskip("g2pM")
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, EXAMPLES / "pinyin.py", "走了"]
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "PYTHONUTF8": "1"}
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_pinyin_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "g2pM", None)
    with pytest.raises(SystemExit, match="pip install --no-deps g2pM==0.1.2.5"):
        pinyin.load()


# --- speech ---------------------------------------------------------------------------------------


# Each probability comes out of one sum after the other: 256 terms of the spectrum, 387, 384, 192
# and 192 of the encoder, 256 of the LSTM, 128 of the head, and a float32 sum of n terms is exact
# to n eps, relative to its terms. The states' errors count against the largest value, for the
# cell grows to 50.
TOLERANCE = np.finfo(np.float32).eps * (256 + 387 + 384 + 192 + 192 + 256 + 128)


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("onnx")
    if importlib.util.find_spec("silero_vad") is None:  # not imported: it would import torch
        pytest.skip("needs silero-vad==6.2.3")
    return speech.find_model()


@pytest.fixture(scope="module")
def sound():
    return speech.synthesise()[0]


def by_onnxruntime(model, sound):
    """Return probabilities (T,), h and c (128,) of the whole file's network."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    state, probability = np.zeros((2, 1, 128), np.float32), []
    sound = np.concatenate([np.zeros(64, np.float32), sound, np.zeros(-sound.size % 512, "f4")])
    for at in range(0, sound.size - 64, 512):
        feeds = {"input": sound[None, at : at + 576], "state": state, "sr": np.array(16000)}
        output, state = session.run(None, feeds)
        probability.append(output[0, 0])
    return [np.array(probability), *state.reshape(2, -1)]


def by_fastlstm(detector, sound):
    probability = np.array([detector(frame) for frame in speech.frames_of(sound)])
    return [probability, *detector.stream.state["state"].reshape(2, -1)]


def error(ours, theirs):
    """Return the largest error, each array's relative to its largest value or 1."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(
        np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.usefixtures("engine")
def test_every_probability_and_the_states_are_those_of_onnxruntime(model, sound):
    expected = by_onnxruntime(model, sound)
    assert error(by_fastlstm(speech.SpeechDetector(model), sound), expected) < TOLERANCE
    assert expected[0].min() < 0.01 and expected[0].max() > 0.99  # both kinds were there


def without_context(detector):
    step = detector.stream.step
    detector.stream.step = lambda x, sr: step(np.c_[np.zeros((1, 64), "f4"), x[:, 64:]], sr=sr)


def without_memory(detector):
    step = detector.stream.step
    detector.stream.step = lambda x, sr: (detector.stream.reset(), step(x, sr=sr))[1]


def gates_in_the_order_of_onnx(detector):
    for _, lstm in detector.network.named_layers():
        if isinstance(lstm, fastlstm.LSTM):
            for name, array in lstm.state_dict().items():
                i, f, g, o = np.split(array, 4)
                setattr(lstm, name, np.concatenate([i, o, f, g]))


SPEECH_SABOTAGES = [without_context, without_memory, gates_in_the_order_of_onnx]


@pytest.mark.parametrize("sabotage", SPEECH_SABOTAGES)
def test_the_comparison_finds_a_broken_detector(model, sound, sabotage):
    detector = speech.SpeechDetector(model)
    sabotage(detector)
    assert error(by_fastlstm(detector, sound), by_onnxruntime(model, sound)) > 10 * TOLERANCE


def test_speech_is_where_the_babble_is(model):
    sound, spans = speech.synthesise()
    probability = by_fastlstm(speech.SpeechDetector(model), sound)[0]
    found = speech.segments(probability)
    babbles = [(start / 16000, end / 16000) for name, start, end in spans if name == "babble"]
    assert len(found) == len(babbles) == 3
    # It notices a beginning within two frames and lets an end ring on for a quarter of a second.
    for (start, end), (first, last) in zip(found, babbles, strict=True):
        assert abs(start - first) <= 0.064 and 0 <= end - last <= 0.25


def test_a_saved_state_resumes_in_another_detector(model, sound):
    whole = by_fastlstm(speech.SpeechDetector(model), sound)[0]
    half = 512 * 100
    first, second = speech.SpeechDetector(model), speech.SpeechDetector(model)
    by_fastlstm(first, sound[:half])
    second.stream.state = first.stream.state
    rest = [second(frame) for frame in speech.frames_of(sound)[100:]]
    np.testing.assert_array_equal(rest, whole[100:])


def test_segments():
    assert speech.segments(np.array([0.4, 0.5, 0.9, 0.1, 0.7])) == [(0.032, 0.096), (0.128, 0.16)]
    assert speech.segments(np.zeros(3)) == []


def test_frames_begin_with_the_end_of_the_frame_before():
    frames = speech.frames_of(np.arange(1, 601, dtype=np.float32))
    expected = np.zeros((2, 576))
    expected[0, 64:] = np.arange(1, 513)
    expected[1, : 64 + 88] = np.arange(512 - 63, 601)
    np.testing.assert_array_equal(frames, expected)


def write_wav(path, samples, size, rate=16000):
    """Write samples (N, channels) from -1 to 1 with `size` bytes each."""
    integers = np.round(samples * (2 ** (8 * size - 1) - 1)).astype("<i4")
    if size == 1:
        integers += 128
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(size)
        file.setframerate(rate)
        file.writeframes(integers.view(np.uint8).reshape(-1, 4)[:, :size].tobytes())


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_wav_of_every_sample_size_in_stereo(tmp_path, size):
    left, right = np.linspace(-1, 1, 101), np.linspace(0.5, 0, 101)
    write_wav(tmp_path / "x.wav", np.stack([left, right], axis=1), size)
    read = speech.read_wav(tmp_path / "x.wav")
    assert read.dtype == np.float32
    # Rounding to one step of the samples, and full scale is one step short of 1.
    step = max(2.0 ** (1 - 8 * size), np.finfo(np.float32).eps)
    np.testing.assert_allclose(read, (left + right) / 2, rtol=0, atol=2 * step)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_wav_of_another_rate(tmp_path, rate):
    def tone(rate):
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)

    write_wav(tmp_path / "x.wav", tone(rate)[:, None], 2, rate)
    np.testing.assert_allclose(speech.read_wav(tmp_path / "x.wav"), tone(16000), atol=2**-14)


def test_what_is_no_sound_is_refused(tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF, but no more")
    with pytest.raises(ValueError, match=r"x\.wav: expected a WAV file of PCM samples \("):
        speech.read_wav(path)
    write_wav(path, np.zeros((0, 1)), 2)
    with pytest.raises(ValueError, match=r"x\.wav: expected sound, got a WAV file of 0 samples"):
        speech.read_wav(path)
    with pytest.raises(SystemExit, match=r"speech\.py: .*x\.wav: expected sound"):
        speech.main([str(path)])


def test_another_network_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "other", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="expected .* the inputs input, state and sr, got x"):
        speech.SpeechDetector(tmp_path / "other.onnx")


def test_speech_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps silero-vad==6.2.3"):
        speech.find_model()


def test_speech_as_a_program(model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    speech.main(["-o", str(tmp_path / "speech.png")])
    output = capsys.readouterr().out
    assert "synthesised sound: 9.20 s, 288 frames of 32 ms" in output
    assert re.findall(r"  speech +([\d.]+) s to", output) == ["1.02", "3.81", "7.01"]
    assert "Real-time factor 0." in output
    assert (tmp_path / "speech.png").read_bytes().startswith(b"\x89PNG\r\n")
