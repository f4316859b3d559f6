"""Make tflite.tar.xz: small files that TensorFlow's converter wrote, and what LiteRT gives of them.

Run in an environment of its own, once:

    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0 ai-edge-litert==2.3.0
    python make_tflite_files.py

For each model there is its file, ``name.tflite``, and ``name.npz`` with its inputs ``x/...`` and
outputs ``y/...`` by their names in the signature; ``z/...`` are the outputs of a second call on the
same inputs, without a reset in between.
"""

import io
import os
import sys
import tarfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

HERE = Path(__file__).parent
L = keras.layers
WORDS = np.array([[1, 2, 0, 4, 0, 3]])
X = np.random.default_rng(0).normal(size=(1, 6, 3)).astype("float32")
Z = np.random.default_rng(1).normal(size=(1, 6, 2)).astype("float32")
members: dict[str, bytes] = {}


def randomised(model):
    """Give all weights distinct values."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.dtype == tf.float32 and "state" not in weight.name:
            value = rng.normal(size=weight.shape) * 0.5
            weight.assign(np.abs(value) + 0.1 if "variance" in weight.name else value)
    return model


def converted(model, *inputs, change=None):
    """Return the model as a .tflite file, for inputs of these shapes."""
    specs = [
        tf.TensorSpec(x.shape, one.dtype, name=one.name)
        for x, one in zip(inputs, model.inputs, strict=True)
    ]
    call = tf.function(lambda *given: model(list(given) if len(given) > 1 else given[0]))
    concrete = call.get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
    if change is not None:
        change(converter)
    return converter.convert()


def keep(name, data, *inputs):
    """Store a file, and what LiteRT gives of it in two calls in a row."""
    members[f"{name}.tflite"] = data
    runner = Interpreter(model_content=data, num_threads=1).get_signature_runner()
    details = runner.get_input_details()
    assert len(details) == len(inputs)  # which stand in the order of the names
    given = {n: x.astype(details[n]["dtype"]) for n, x in zip(sorted(details), inputs, strict=True)}
    arrays = {f"x/{n}": x for n, x in given.items()}
    for call in "yz":
        arrays |= {f"{call}/{n}": np.array(y) for n, y in runner(**given).items()}
    file = io.BytesIO()
    np.savez(file, **arrays)
    members[f"{name}.npz"] = file.getvalue()


def make(name, model, *inputs, **options):
    data = converted(randomised(model), *inputs, **options)
    keep(name, data, *inputs)
    print(name, len(data), file=sys.stderr)


def row(*layers, features=3, **options):
    """Return a Sequential over vectors."""
    return keras.Sequential([keras.Input((6, features), **options), *layers])


def words(*layers, dtype="int32"):
    """Return a Sequential of an embedding and these layers."""
    return keras.Sequential([keras.Input((6,), dtype=dtype), L.Embedding(7, 3), *layers])


def halves(converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def whole_numbers(converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([X * n] for n in (0.5, 1, 2))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


def two_inputs():
    a, b = keras.Input((6, 3), name="a"), keras.Input((6, 2), name="b")
    both = L.Concatenate()([L.LSTM(4)(a), L.LSTM(3)(b)])
    return keras.Model([a, b], {"sum": L.Dense(2)(both), "way": L.Dense(1, "tanh")(both)})


def residual():
    a = keras.Input((6, 3))
    y = L.LSTM(3, return_sequences=True)(a)
    y = L.LayerNormalization()(L.Add()([a, y]))
    return keras.Model(a, L.Dense(2)(L.GlobalAveragePooling1D()(y)))


def attention():
    a = keras.Input((6, 3))
    y = L.LSTM(4, return_sequences=True)(a)
    y = L.Attention()([y, y])
    return keras.Model(a, L.Dense(2)(L.Flatten()(y)))


def main():
    sequences = {"return_sequences": True}
    make("lstm", row(L.LSTM(5, **sequences)), X)
    make("last", row(L.LSTM(5), L.Dense(2, "softmax")), X)
    make("stacked", row(L.LSTM(5, **sequences), L.LSTM(4), L.Dense(3, "relu")), X)
    make("time_distributed", row(L.LSTM(5, **sequences), L.Dense(2, "sigmoid")), X)
    make("time_major", row(L.LSTM(5, time_major=True, **sequences)), X)
    make("no_bias", row(L.LSTM(5, use_bias=False, **sequences)), X)
    make("backwards", row(L.LSTM(5, go_backwards=True, **sequences)), X)
    make("backwards_last", row(L.LSTM(5, go_backwards=True), L.Dense(2)), X)
    for mode in ("concat", "sum", "mul", "ave"):
        way = L.Bidirectional(L.LSTM(4, **sequences), merge_mode=mode)
        make(f"bidirectional_{mode}", row(way), X)
    make("bidirectional_last", row(L.Bidirectional(L.LSTM(4)), L.Dense(2)), X)
    ways = [L.Bidirectional(L.LSTM(n, return_sequences=n == 4)) for n in (4, 2)]
    make("bidirectional_stacked", row(*ways, L.Dense(2)), X)
    make("words", words(L.LSTM(5), L.Dense(1, "sigmoid")), WORDS)
    make("words_of_floats", words(L.LSTM(5), dtype="float32"), WORDS)
    stateful = keras.Sequential([L.LSTM(5, stateful=True, batch_input_shape=(1, 6, 3))])
    make("stateful", stateful, X)
    make("two_inputs", two_inputs(), X, Z)
    make("residual", residual(), X)
    make("attention", attention(), X)
    make("unrolled", row(L.LSTM(2, unroll=True)), X)
    make("cell", row(L.RNN(L.LSTMCell(2))), X)
    make("relu", row(L.LSTM(5, activation="relu")), X)
    make("masked", row(L.Masking(), L.LSTM(5)), X)
    make("convolution", row(L.Conv1D(4, 3, padding="same", activation="relu"), L.LSTM(5)), X)
    make("normalised", row(L.BatchNormalization(), L.LSTM(5), L.Dropout(0.5), L.Dense(2)), X)
    make("gru", row(L.GRU(3)), X)
    make("halves", row(L.LSTM(5), L.Dense(2)), X, change=halves)
    make("integers", row(L.LSTM(5), L.Dense(2)), X, change=whole_numbers)
    with tarfile.open(HERE / "tflite.tar.xz", "w:xz", preset=9) as file:
        for name, data in sorted(members.items(), key=lambda member: member[0][::-1]):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    main()
