"""Make keras2.zip: small files of Keras 2, and what Keras 2 itself gives.

Run in an environment of its own, once:

    pip install tensorflow-cpu==2.21.0 tf-keras==2.21.0
    python make_keras2_files.py

For each model there is its file, as ``name.h5`` or ``name.keras``, and ``name.npz`` with its inputs
``x0``, ``x1``, ... and outputs ``y0``, ``y1``, ...
"""

import io
import os
import tempfile
import zipfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tf_keras as keras
from tf_keras.src.layers.rnn.cudnn_lstm import CuDNNLSTM

HERE = Path(__file__).parent
FOLDER = Path(tempfile.mkdtemp())
L = keras.layers
WORDS = np.array([[1, 2, 0, 4, 0], [6, 5, 3, 0, 0], [0, 0, 0, 0, 0]])
X = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
HOLES = X * (WORDS != 0)[..., None].astype("float32")
members: dict[str, bytes] = {}


def randomised(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = rng.normal(size=weight.shape) * 0.5
        weight.assign(np.abs(value) + 0.1 if "variance" in weight.name else value)
    return model


def keep(name, model, *inputs, suffix=".h5", outputs=None):
    """Store a model in a file, and what it gives."""
    if outputs is None:
        given = model(list(inputs) if len(inputs) > 1 else inputs[0])
        if isinstance(given, dict):
            given = list(given.values())
        outputs = given if isinstance(given, (list, tuple)) else [given]
    path = FOLDER / (name + suffix)
    if name.endswith("weights"):
        model.save_weights(path)
    else:
        model.save(path)
    members[path.name] = path.read_bytes()
    file = io.BytesIO()
    arrays = {f"x{n}": np.asarray(x) for n, x in enumerate(inputs)}
    np.savez(file, **arrays, **{f"y{n}": np.asarray(y) for n, y in enumerate(outputs)})
    members[f"{name}.npz"] = file.getvalue()


chain = randomised(
    keras.Sequential(
        [
            L.Embedding(7, 3, input_length=5, name="words"),
            L.LSTM(4, recurrent_activation="hard_sigmoid", return_sequences=True, name="first"),
            L.Bidirectional(L.LSTM(3), name="second"),
            L.Dropout(0.25),
            L.Dense(2, activation="softmax", name="classes"),
        ]
    )
)
keep("chain", chain, WORDS)
keep("chain_weights", chain, WORDS)

tokens, aux = keras.Input((None,), name="tokens"), keras.Input((4,), name="aux")
x = L.Embedding(7, 5, mask_zero=True, name="emb")(tokens)
x = L.Bidirectional(L.LSTM(3, return_sequences=True), name="bi")(x)
y, h, c = L.LSTM(4, return_state=True, name="top")(x, initial_state=[aux, aux])
shared = L.Dense(2, activation="hard_sigmoid", name="shared")
frozen = L.Dense(3, name="frozen", trainable=False)
inner = keras.Sequential(
    [frozen, L.BatchNormalization(), L.Dropout(0.1), L.TimeDistributed(L.Dense(2)), L.LSTM(3)],
    name="inner",
)
network = keras.Model(
    [tokens, aux], [L.Concatenate(name="both")([shared(y), shared(h)]), c, inner(x)]
)
randomised(network)
keep("network", network, WORDS, X[:, 0][:, [0, 1, 2, 0]])
keep("network_v3", network, WORDS, X[:, 0][:, [0, 1, 2, 0]], suffix=".keras")

a, b = keras.Input((5, 3)), keras.Input((5, 3))
one, other = L.Masking()(a), L.Masking()(b)
merged = [
    L.Add()([one, other]),
    L.Multiply()([one, b]),
    L.Maximum()([one, other]),
    L.Concatenate()([one, other]),
    L.Concatenate()([a, other]),
]
ends = [L.LSTM(2)(value) for value in merged]
ends += [
    L.LSTM(2, return_sequences=True, zero_output_for_mask=True)(one),
    L.LSTM(2, return_sequences=True, go_backwards=True)(one),
    L.Bidirectional(L.LSTM(2, return_sequences=True), merge_mode="mul")(one),
    L.GlobalAveragePooling1D()(one),
    L.LSTM(2)(L.TimeDistributed(L.Dense(2))(one)),
    L.LSTM(2)(L.Conv1D(2, 2)(one)),
]
masks = randomised(keras.Model([a, b], [*merged, *ends]))
keep("masks", masks, HOLES, HOLES[::-1].copy())

pages = keras.Input((None, 5), name="pages")
x = L.TimeDistributed(L.Embedding(7, 3))(pages)
x = L.TimeDistributed(L.LSTM(3))(x)
keep("pages", randomised(keras.Model(pages, L.LSTM(2)(x))), np.stack([WORDS, WORDS[::-1]]))

layers = [
    L.Conv1D(4, 2, padding="same", strides=2, activation="relu"),
    L.Conv1D(4, 2, padding="causal", dilation_rate=2),
    L.LayerNormalization(),
    L.LayerNormalization(axis=[1, 2]),
    L.BatchNormalization(axis=1),
    L.PReLU(),
    L.LeakyReLU(),
    L.LeakyReLU(0.1),
    L.ELU(0.5),
    L.ReLU(1.0, 0.3, 0.5),
    L.ThresholdedReLU(0.5),
    L.Softmax(axis=1),
    L.AveragePooling1D(2, padding="same"),
    L.AveragePooling1D(3, strides=2, padding="same"),
    L.MaxPooling1D(2, padding="same"),
    L.GlobalMaxPooling1D(),
    L.Flatten(),
    L.Permute((2, 1)),
    L.ZeroPadding1D(2),
    L.Cropping1D(1),
    L.UpSampling1D(2),
    L.Rescaling(2.0, 0.5),
    *(
        L.Activation(name)
        for name in ("gelu", "hard_sigmoid", "swish", "selu", "exponential", "mish", "softplus")
    ),
]
x = keras.Input((5, 3))
keep("layers", randomised(keras.Model(x, [layer(x) for layer in layers])), X)

stateful = keras.Sequential(
    [
        keras.Input(batch_shape=(3, 5, 3)),
        L.Bidirectional(L.LSTM(2, return_sequences=True)),
        L.LSTM(4, stateful=True, return_sequences=True, activation="softsign", name="goes_on"),
        L.Flatten(),
    ]
)
randomised(stateful)
stateful.reset_states()
outputs = [stateful(X).numpy(), stateful(X).numpy()]
keep("stateful", stateful, X, outputs=outputs)

x = keras.Input((3, 3), batch_size=5)  # steps, sequences, features
keep(
    "time_major",
    randomised(keras.Model(x, L.LSTM(2, time_major=True, return_sequences=True)(x))),
    X.swapaxes(0, 1).copy(),
)


def with_cells(cell):
    both = L.Bidirectional(cell(3, return_sequences=True), name="both")
    return keras.Sequential([keras.Input((5, 3)), both, cell(2, name="last")])


# cuDNN's layer runs on a GPU alone, but is saved here too; Keras 2 itself reads its weights into
# LSTMs, and so gives the outputs.
on_gpu, here = randomised(with_cells(CuDNNLSTM)), with_cells(L.LSTM)
on_gpu.save_weights(FOLDER / "on_gpu.h5")
here.load_weights(FOLDER / "on_gpu.h5")
keep("cudnn", on_gpu, X, outputs=[here(X)])
keep("cudnn_weights", on_gpu, X, outputs=[here(X)])

with zipfile.ZipFile(HERE / "keras2.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
    for name, data in members.items():
        archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
print((HERE / "keras2.zip").stat().st_size, {name: len(data) for name, data in members.items()})
