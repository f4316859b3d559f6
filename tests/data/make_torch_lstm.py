"""Write torch_lstm.npz: what torch.nn.LSTM and LSTMCell answer, for machines without torch.

    python tests/data/make_torch_lstm.py

Made with torch 2.13.0 on a CPU. For every name in CASES and either dtype the file holds
"name_dtype/config", JSON of the layer's arguments, of its parameters' shapes in order and of how it
is called, and the arrays "parameters" (all of them, flat, in order), "input", "output", "h_n",
"c_n" and, where the case has them, "h_0" and "c_0". A packed case stores input and output as
padded, in the caller's order.
"""

import json
import pathlib

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PATH = pathlib.Path(__file__).with_name("torch_lstm.npz")

# layer's arguments, and: T, B (None: unbatched), states, lengths, enforce_sorted, cell
CASES = {
    "plain": dict(layer=dict(input_size=3, hidden_size=4), T=5, B=2),
    "one": dict(layer=dict(input_size=1, hidden_size=1), T=1, B=1, states=True),
    "states": dict(layer=dict(input_size=3, hidden_size=4), T=5, B=2, states=True),
    "no_bias": dict(layer=dict(input_size=3, hidden_size=4, bias=False), T=4, B=2),
    "vector_tails": dict(layer=dict(input_size=5, hidden_size=17), T=6, B=7, states=True),
    "layers": dict(layer=dict(input_size=3, hidden_size=5, num_layers=3), T=4, B=2, states=True),
    "bidirectional": dict(
        layer=dict(input_size=3, hidden_size=5, num_layers=2, bidirectional=True),
        T=4,
        B=3,
        states=True,
    ),
    "projection": dict(
        layer=dict(input_size=3, hidden_size=6, num_layers=2, proj_size=2), T=4, B=3, states=True
    ),
    "batch_first": dict(
        layer=dict(input_size=3, hidden_size=4, batch_first=True), T=5, B=2, states=True
    ),
    "unbatched": dict(
        layer=dict(input_size=3, hidden_size=4, num_layers=2, bidirectional=True),
        T=5,
        B=None,
        states=True,
    ),
    "packed": dict(
        layer=dict(input_size=3, hidden_size=4, num_layers=2, bidirectional=True),
        T=6,
        B=4,
        states=True,
        lengths=[3, 6, 1, 6],
    ),
    "packed_sorted": dict(
        layer=dict(input_size=3, hidden_size=4), T=5, B=3, lengths=[5, 3, 3], enforce_sorted=True
    ),
    "everything": dict(
        layer=dict(
            input_size=4,
            hidden_size=6,
            num_layers=2,
            bias=False,
            batch_first=True,
            bidirectional=True,
            proj_size=3,
        ),
        T=5,
        B=4,
        states=True,
        lengths=[2, 5, 4, 1],
    ),
    "cell": dict(layer=dict(input_size=3, hidden_size=5), T=1, B=4, states=True, cell=True),
    "cell_unbatched_no_bias": dict(
        layer=dict(input_size=3, hidden_size=5, bias=False), T=1, B=None, cell=True
    ),
}


def answer(layer, T, B, states=False, lengths=None, enforce_sorted=False, cell=False):
    """Draw an input, run `layer`, return all arrays."""
    dtype, batch = layer.weight_hh.dtype if cell else layer.weight_hh_l0.dtype, [B] if B else []
    if cell:
        shape, state_shapes = batch, [batch + [layer.hidden_size]] * 2
    else:
        shape = batch + [T] if layer.batch_first else [T] + batch
        cells = layer.num_layers * (1 + layer.bidirectional)
        sizes = layer.proj_size or layer.hidden_size, layer.hidden_size
        state_shapes = [[cells] + batch + [size] for size in sizes]
    arrays = {"input": torch.randn(*shape, layer.input_size, dtype=dtype)}
    hx = None
    if states:
        hx = [torch.randn(*state_shape, dtype=dtype) for state_shape in state_shapes]
        arrays["h_0"], arrays["c_0"] = hx
    given = arrays["input"]
    if lengths:
        given = pack_padded_sequence(given, lengths, layer.batch_first, enforce_sorted)
    if cell:
        arrays["h_n"], arrays["c_n"] = layer(given, hx)
    else:
        arrays["output"], (arrays["h_n"], arrays["c_n"]) = layer(given, hx)
    if lengths:
        arrays["output"], _ = pad_packed_sequence(arrays["output"], layer.batch_first)
    return arrays


@torch.inference_mode()
def main():
    stored = {}
    for dtype in (torch.float32, torch.float64):
        for seed, (name, case) in enumerate(CASES.items()):
            torch.manual_seed(seed)
            options = {key: value for key, value in case.items() if key != "layer"}
            kind = torch.nn.LSTMCell if case.get("cell") else torch.nn.LSTM
            layer = kind(**case["layer"], dtype=dtype)
            prefix = f"{name}_{dtype}".replace("torch.", "")
            state = layer.state_dict()
            config = {**case, "dtype": str(dtype).removeprefix("torch.")}
            config["shapes"] = {key: list(value.shape) for key, value in state.items()}
            stored[f"{prefix}/config"] = np.array(json.dumps(config))
            stored[f"{prefix}/parameters"] = np.concatenate(
                [v.numpy().ravel() for v in state.values()]
            )
            for key, value in answer(layer, **options).items():
                stored[f"{prefix}/{key}"] = value.numpy()
    np.savez_compressed(PATH, **stored)


if __name__ == "__main__":
    main()
