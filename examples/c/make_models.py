"""Models for the C programs beside this one: amp.fl, which is trained here, and vad.fl.

`amp.fl` is an LSTM of 32 units with a Linear, whose output is added to the input, as in guitar
amplifiers that are modelled by RTNeural, NAM or AIDA-X. It is trained on plucked strings that the
program makes, to do what a formula does: a filter of one pole, then tanh clips what is loud. What
it reaches on strings that it was not trained on is printed as the error to signal ratio, the energy
of the difference over that of what the formula gives.

`vad.fl` is the network of Silero VAD for 16 kHz, whose weights the package silero-vad carries: a
spectrum, four convolutions, an LSTM and a linear layer. fastlstm has no layers for convolutions, so
the file is written node by node.

    pip install ".[onnx]"
    pip install --no-deps silero-vad==6.2.3
    python examples/c/make_models.py amp vad
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np

import fastlstm
from fastlstm.formats import fl
from fastlstm.training import Adam, CosineAnnealingLR, MSELoss

RATE = 48000  # of amp.fl, in samples a second
HIDDEN = 32
CUTOFF, GAIN = 1500, 8  # of the formula: Hz, and how far tanh is driven
STEPS = 1000  # of a sequence of the training
BATCH = 16

FRAME, CONTEXT = 512, 64  # samples of vad.fl's frames, and of the one before
WINDOW, HOP, BINS = 256, 128, 129  # of its spectrum
RELU, SIGMOID = 2, 0  # numbers of functions in fastlstm.h


# --- the amplifier --------------------------------------------------------------------------------


def strings(seconds: int, seed: int) -> np.ndarray:
    """Return plucked strings, soft and loud, up to five at once: (samples,), float64."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(seconds * RATE)
    at = np.arange(RATE) / RATE  # a string sounds for a second
    for _ in range(5 * seconds):
        frequency = 82.4 * 2 ** (
            rng.integers(0, 37) / 12
        )  # a guitar's lowest string, three octaves
        pluck = np.zeros(RATE)
        for harmonic in range(1, min(20, int(6000 / frequency))):
            fade = np.exp(-(1 + 1.5 * harmonic) * at)
            turn = 2 * np.pi * (harmonic * frequency * at + rng.random())
            pluck += fade * np.sin(turn) / harmonic
        start = rng.integers(0, sound.size)
        part = sound[start : start + RATE]
        part += 0.4 * rng.random() * pluck[: part.size]
    return np.clip(sound, -1, 1)


def formula(x: np.ndarray) -> np.ndarray:
    """Return what the amplifier makes of a sound (samples,)."""
    kept = np.exp(-2 * np.pi * CUTOFF / RATE)
    response = (1 - kept) * kept ** np.arange(256)  # what is later is below 1e-20
    return np.tanh(GAIN * np.convolve(x, response)[: x.size])


def error_to_signal(prediction: np.ndarray, target: np.ndarray) -> float:
    """Return the energy of the difference over that of the target."""
    return float(np.sum((prediction - target) ** 2) / np.sum(target**2))


def train(seconds: int, epochs: int, seed: int = 0) -> fastlstm.Residual:
    """Return an amplifier that was trained on so many seconds of sound, (batch, time, 1)."""
    lstm = fastlstm.LSTM(1, HIDDEN, batch_first=True, num_threads=1, seed=seed)
    linear = fastlstm.Linear(HIDDEN, 1, seed=seed)
    model = fastlstm.Residual(fastlstm.Sequential({"lstm": lstm, "linear": linear}))
    x = strings(seconds, seed)
    x, y = (a.reshape(-1, STEPS, 1).astype(np.float32) for a in (x, formula(x)))
    optimizer = Adam(model, lr=0.005)
    schedule = CosineAnnealingLR(optimizer, epochs)
    fastlstm.fit(
        model, (x, y), MSELoss(), optimizer, epochs, BATCH,
        schedule=schedule, clip_norm=1.0, seed=seed, progress=False,
    )  # fmt: skip
    return model


def test(model: fastlstm.Residual) -> float:
    """Return the error to signal ratio on strings of another seed."""
    x = strings(5, 1000)
    return error_to_signal(model(x.astype(np.float32)[None, :, None])[0, :, 0], formula(x))


# --- Silero VAD -----------------------------------------------------------------------------------


def silero_weights() -> dict[str, np.ndarray]:
    """Return the arrays in the network's file for 16 kHz, from the package silero-vad.

    Its silero_vad_16k.safetensors has weights of another training than its ONNX files.
    """
    package = importlib.util.find_spec("silero_vad")
    path = package and Path(package.origin).parent / "data" / "silero_vad_16k_op15.onnx"
    if not path or not path.exists():
        sys.exit(
            "make_models.py needs the package that carries the network for vad.fl: "
            "pip install --no-deps silero-vad==6.2.3"
        )
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            "vad.fl is made of an ONNX file, which needs: pip install onnx"
        ) from error
    arrays = onnx.load(path).graph.initializer
    return {a.name.removeprefix("model."): onnx.numpy_helper.to_array(a) for a in arrays}


def silero(w: dict[str, np.ndarray]) -> list[fl.Node]:
    """Return the nodes of the network, from a frame (576,) to a probability."""
    nodes: list[fl.Node] = []

    def add(kind: int, takes: int, gives: int, *, sources: tuple[int, ...] = (), **what) -> None:
        """Add a node that takes what the one before it gives, or `sources`."""
        nodes.append(fl.Node(kind, sources or (len(nodes),), takes, gives, **what))

    def convolve(name: str, length: int, stride: int, padding: int) -> int:
        """Add a convolution, and return the length of its output."""
        weight, bias = (w[name], None) if name in w else (w[f"{name}.weight"], w[f"{name}.bias"])
        out, channels, kernel = weight.shape  # torch's order; the file wants channels side by side
        after = (length + 2 * padding - kernel) // stride + 1
        add(
            fl.CONVOLUTION, length * channels, after * out,
            whole=(length, channels, after, out, kernel, stride, padding),
            arrays=(weight.transpose(0, 2, 1), np.zeros(out, "f4") if bias is None else bias),
        )  # fmt: skip
        return after

    def relu() -> None:
        add(fl.ACTIVATION, nodes[-1].gives, nodes[-1].gives, whole=(RELU,))

    # The frame is continued by its own mirror image: 64 values before the last one, backward.
    frame, mirror = CONTEXT + FRAME, WINDOW // 4
    add(fl.SELECT, frame, mirror, whole=(frame - 1 - mirror,))
    add(fl.LINEAR, mirror, mirror, arrays=(np.eye(mirror, dtype="f4")[::-1], None))
    add(fl.JOIN, frame, frame + mirror, sources=(0, len(nodes)))
    # The spectrum: 129 cosines, then 129 sines, at each of 4 places.
    length = convolve("stft.forward_basis_buffer", frame + mirror, HOP, 0)
    add(fl.MAGNITUDE, length * 2 * BINS, length * BINS, whole=(length, BINS))
    for number, stride in enumerate((1, 2, 2, 1)):
        length = convolve(f"encoder.{number}.reparam_conv", length, stride, 1)
        relu()
    units = nodes[-1].gives  # length is 1 now
    lstm = fastlstm.LSTM(units, units)
    cell = "decoder.rnn."
    lstm.load_state_dict({f"{n[len(cell) :]}_l0": a for n, a in w.items() if n.startswith(cell)})
    fl.nodes_of(lstm, nodes, len(nodes), units)
    relu()
    head = "decoder.decoder.2"  # a convolution of kernel 1
    add(fl.LINEAR, units, 1, arrays=(w[f"{head}.weight"].reshape(1, -1), w[f"{head}.bias"]))
    add(fl.ACTIVATION, 1, 1, whole=(SIGMOID,))
    return nodes


def main(arguments: list[str] | None = None) -> None:
    """Write the models that are asked for."""
    parser = argparse.ArgumentParser(description="Write models for the C programs.")
    parser.add_argument("models", nargs="+", choices=["amp", "vad"])
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="a folder (default: .)")
    parser.add_argument(
        "--seconds", type=int, default=20, help="of sound to train on (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if "amp" in options.models:
        start = time.perf_counter()
        model = train(options.seconds, options.epochs)
        took = time.perf_counter() - start
        fastlstm.save(model.eval(), options.output / "amp.fl", sample_rate=RATE)
        print(f"amp.fl: error to signal ratio {test(model):.2g}, after {took:.0f} s of training")
    if "vad" in options.models:
        nodes = silero(silero_weights())
        with open(options.output / "vad.fl", "wb") as file:
            fl.write_nodes(
                file, nodes, takes=CONTEXT + FRAME, sample_rate=16000,
                notes={"model": "Silero VAD 6.2.3, MIT licence, github.com/snakers4/silero-vad"},
            )  # fmt: skip
        print(f"vad.fl: {len(nodes)} nodes")


if __name__ == "__main__":
    main()
