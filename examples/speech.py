"""Is anybody speaking? fastlstm runs the trained network of Silero VAD live, frame by frame.

The package silero-vad (Silero Team) carries the whole network as an ONNX file: a spectrum and four
convolutions, an LSTM, a linear layer, and branches for two rates of sound. `fastlstm.load` reads
it, and a stream keeps the LSTM's state from one frame of 32 ms to the next.

    pip install ".[onnx,plot]"
    pip install --no-deps silero-vad==6.2.3
    python examples/speech.py                              # a sound that the program makes
    python examples/speech.py recording.wav -o speech.png
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastlstm
from fastlstm.wav import Sound

RATE = 16000  # samples a second
HOP = 512  # new samples in a frame
CONTEXT = 64  # samples of the frame before, with which a frame begins
THRESHOLD = 0.5


class SpeechDetector:
    """Silero VAD for one live sound.

    Parameters
    ----------
    path : path-like
        The file `silero_vad.onnx`.

    Raises
    ------
    ValueError
        If the file holds another network.
    """

    def __init__(self, path: Path) -> None:
        self.network = fastlstm.load(path)
        names = {port.name for port in self.network.inputs}
        if names != {"input", "state", "sr"}:
            raise ValueError(
                f"{path}: expected Silero VAD's network with the inputs input, state and sr, got "
                + ", ".join(sorted(names))
            )
        self.stream = self.network.stream()

    def __call__(self, frame: np.ndarray) -> float:
        """Return the probability of speech in the next frame (576,) of the sound."""
        return self.stream.step(frame[None], sr=RATE)[0, 0]


def find_model() -> Path:
    """Return the path of the ONNX file in the installed package silero-vad."""
    package = importlib.util.find_spec("silero_vad")
    path = package and Path(package.origin).parent / "data" / "silero_vad.onnx"
    if not path or not path.exists():
        sys.exit(
            "speech.py needs the package that carries the trained network: "
            "pip install --no-deps silero-vad==6.2.3"
        )
    return path


def read_wav(path: str) -> np.ndarray:
    """Return the sound of a WAV file at 16 kHz, the mean of its channels: (samples,), -1 to 1."""
    try:
        file = Sound(path)
    except ValueError as error:
        raise ValueError(f"{path}: expected a WAV file of PCM samples ({error})") from error
    sound, rate = file[:].mean(axis=1, dtype=np.float64), file.rate
    if not sound.size:
        raise ValueError(f"{path}: expected sound, got a WAV file of 0 samples")
    if rate != RATE:  # resample by cutting or extending the spectrum
        length = round(sound.size * RATE / rate)
        spectrum = np.fft.rfft(sound)[: length // 2 + 1]
        sound = np.fft.irfft(spectrum, length) * (length / sound.size)
    return sound.astype(np.float32)


def synthesise(seed: int = 0) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Return a sound of 9 s and its parts [(name, start, end), ...], in samples."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(RATE) / RATE
    parts = [
        ("silence", np.zeros(RATE)),
        ("babble", babble("aieouaeio", 120, rng)),
        ("noise", 0.05 * rng.standard_normal(RATE)),
        ("babble", babble("oaiuea", 210, rng)),
        ("silence", np.zeros(RATE)),
        ("tone", 0.3 * np.sin(2 * np.pi * 440 * seconds)),
        ("babble", babble("uaioea", 160, rng)),
        ("silence", np.zeros(RATE)),
    ]
    ends = np.cumsum([part.size for _, part in parts])
    sound = np.concatenate([part for _, part in parts])
    sound += 0.001 * rng.standard_normal(sound.size)  # no microphone is silent
    spans = [(name, end - part.size, end) for (name, part), end in zip(parts, ends, strict=True)]
    return sound.astype(np.float32), spans


def babble(vowels: str, pitch: int, rng: np.random.Generator) -> np.ndarray:
    """Return a syllable of 0.2 s for each vowel: harmonics of a falling pitch and its formants."""
    formants = {  # Hz; Peterson and Barney 1952, men
        "a": (730, 1090, 2440),
        "e": (530, 1840, 2480),
        "i": (270, 2290, 3010),
        "o": (570, 840, 2410),
        "u": (300, 870, 2240),
    }
    length = RATE // 5
    at = np.arange(length * len(vowels))
    middles = length * (np.arange(len(vowels)) + 0.5)
    curves = [np.interp(at, middles, row) for row in zip(*map(formants.get, vowels), strict=True)]
    frequency = pitch * (1.15 - 0.3 * at / at.size + 0.05 * np.sin(8 * np.pi * at / RATE))
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    voice = np.zeros(at.size)
    for harmonic in range(1, 4500 // pitch):
        for curve, strength, width in zip(curves, (1, 0.6, 0.3), (60, 90, 130), strict=True):
            away = (harmonic * frequency - curve) / width
            voice += strength / (1 + away**2) / harmonic**0.5 * np.sin(harmonic * phase)
    opening = np.sin(np.pi * (at % length) / length) ** 0.6
    hiss = np.diff(rng.standard_normal(at.size), prepend=0) * np.clip(1 - 2 * opening, 0, 1)
    sound = voice * opening + 0.15 * hiss  # a hiss like an s between the vowels
    return 0.4 * sound / np.abs(sound).max()


def frames_of(sound: np.ndarray) -> np.ndarray:
    """Return the frames (T, 576) of a sound; silence fills the last one."""
    count = -(-sound.size // HOP)
    padded = np.zeros(CONTEXT + count * HOP, np.float32)
    padded[CONTEXT : CONTEXT + sound.size] = sound
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + HOP)[::HOP]


def segments(probability: np.ndarray) -> list[tuple[float, float]]:
    """Return [(start, end), ...] in seconds of the frames at or above the threshold."""
    speech = np.concatenate([[False], probability >= THRESHOLD, [False]])
    edges = np.flatnonzero(speech[1:] != speech[:-1]) * HOP / RATE
    return [(float(start), float(end)) for start, end in edges.reshape(-1, 2)]


def draw(
    path: str,
    sound: np.ndarray,
    probability: np.ndarray,
    found: Sequence[tuple[float, float]],
    title: str,
    spans: Sequence[tuple[str, int, int]],
) -> None:
    """Draw the sound with the speech found in it, and the probability below, as a PNG file."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    duration = sound.size / RATE
    # The picture shows no more than an envelope of 4000 columns, however long the sound is.
    size = max(1, -(-sound.size // 4000))
    columns = np.pad(sound, (0, -sound.size % size), mode="edge").reshape(-1, size)
    seconds = (np.arange(len(columns)) + 0.5) * size / RATE
    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(12, 5), height_ratios=(3, 2), layout="constrained"
    )
    above.fill_between(
        seconds, columns.min(axis=1), columns.max(axis=1), color="0.35", linewidth=0.3
    )
    above.set_ylabel("amplitude")
    above.set_title(title, loc="left", pad=12)
    limit = 1.25 * max(np.abs(sound).max(), 1e-3)
    above.set_ylim(-limit, limit)
    for name, start, end in spans:
        above.text((start + end) / 2 / RATE, 0.88 * limit, name, ha="center", va="center")

    edges = np.minimum(np.arange(probability.size + 1) * HOP / RATE, duration)
    below.stairs(probability, edges, fill=True, color="tab:blue", alpha=0.35)
    below.stairs(probability, edges, color="tab:blue", baseline=None)
    below.axhline(THRESHOLD, color="tab:red", linestyle="--", linewidth=1, label="threshold")
    below.set_ylabel("probability of speech")
    below.set_ylim(0, 1.02)
    below.set_xlabel("time (s)")
    below.set_xlim(0, duration)
    for n, (start, end) in enumerate(found):
        label = "_" * n + "speech"  # matplotlib's legend leaves out labels that begin with _
        above.axvspan(start, end, color="tab:blue", alpha=0.15, linewidth=0, zorder=0, label=label)
    figure.legend(loc="upper right", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Find the speech in a file or in a synthesised sound."""
    parser = argparse.ArgumentParser(description="Find the speech in a sound, frame by frame.")
    parser.add_argument("wav", nargs="?", help="a WAV file (default: a synthesised sound)")
    parser.add_argument("-o", "--output", default="speech.png", help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        run(options.wav, options.output)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"speech.py: {error}")


def run(wav: str | None, output: str) -> None:
    """Run the network over the sound, print what it finds and how long that takes, and draw it."""
    sound, spans = (read_wav(wav), ()) if wav else synthesise()
    start = time.perf_counter()
    detector = SpeechDetector(find_model())
    frames = frames_of(sound)
    detector(frames[0])  # the first call may compile
    detector.stream.reset()
    ready = time.perf_counter()

    probability = np.array([detector(frame) for frame in frames])
    took = time.perf_counter() - ready

    duration = sound.size / RATE
    name = Path(wav).name if wav else "synthesised sound"
    print(f"{name}: {duration:.2f} s, {len(frames)} frames of {HOP * 1000 // RATE} ms")
    found = segments(probability)
    for first, last in found:
        print(f"  speech {first:8.2f} s to {min(last, duration):8.2f} s")
    if not found:
        print("  no speech")
    factor = took / duration
    print(f"Real-time factor {factor:.4f}: {1 / factor:.0f} times faster than it sounds.")
    print(f"A frame takes {took / len(frames) * 1e6:.0f} us.")
    print(f"Loading and the first frame, which may compile, took {ready - start:.2f} s and are not")
    print("in these figures.")
    title = f"{name}, heard by Silero VAD in fastlstm"
    draw(output, sound, probability, found, title, spans)
    print(f"Drawn: {output}")


if __name__ == "__main__":
    main()
