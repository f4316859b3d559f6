"""Write the .pt files of this folder: what torch.save makes of models, for the readers.

    python tests/data/make_torch_files.py

Made with torch 2.13.0. The numbers follow a rule that the tests know without torch: the n-th number
of the k-th tensor is ((n + k) % 31 - 15) / 8, which float16 and bfloat16 hold exactly.
"""

import warnings
from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent
LEGACY = {"_use_new_zipfile_serialization": False}


class Whole(torch.nn.Module):
    """A module to pickle whole; torch stores this source with it."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 1)
        self.lstm = torch.nn.LSTM(2, 3, batch_first=True)
        self.register_buffer("steps", torch.zeros(2))
        self.register_buffer("passing", torch.ones(1), persistent=False)
        self.tied = self.fc


def fill(tensor, k):
    numbers = ((torch.arange(tensor.numel()) + k) % 31 - 15) / 8
    return tensor.copy_(numbers.reshape(tensor.shape))


def filled(module):
    with torch.no_grad():
        for k, tensor in enumerate(module.state_dict().values()):
            fill(tensor, k)
    return module


def views():
    """Every way in which a tensor can lie in its storage, and every dtype a model has."""
    base = fill(torch.empty(4, 6), 0)
    shared = fill(torch.empty(3, 2), 1)
    return OrderedDict(
        offset=base[1:3],
        strided=base[::2, 1::2],
        transposed=base.T,
        tied=shared,
        tied_too=shared,
        parameter=torch.nn.Parameter(fill(torch.empty(2, 3), 2)),
        buffer=torch.nn.Parameter(fill(torch.empty(2), 3), requires_grad=False),
        half=fill(torch.empty(5, 7), 4).half(),
        bfloat16=fill(torch.empty(5, 7), 5).bfloat16(),
        float64=fill(torch.empty(2, 2, dtype=torch.float64), 6),
        int64=torch.tensor([-1, 2**40]),
        uint8=torch.tensor([0, 255], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.empty(0, 3),
    )


def checkpoint():
    model = filled(torch.nn.LSTM(2, 3))
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {
        "epoch": 7,
        "rate": 0.5,
        "note": "fünf",
        "history": [1.0, None, True, -3, 2**70, ()],
        "loss": torch.tensor(0.25),
        "model_state": model.state_dict(),
        "optimizer_state": optimizer.state_dict(),
    }


def lightning():
    """The keys of a Lightning checkpoint."""
    model = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(2, 3), "fc": torch.nn.Linear(3, 1)})
    return {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": filled(model).state_dict(prefix="model."),
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1},
    }


def main():
    wide = filled(torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)).state_dict()
    small = filled(torch.nn.LSTM(2, 3)).state_dict()
    saves = {
        "lstm": (wide, {}),
        "lstm_legacy": (wide, LEGACY),
        "small_protocol4": (small, {"pickle_protocol": 4}),
        "small_legacy_protocol1": (small, {"pickle_protocol": 1} | LEGACY),
        "small_legacy_protocol5": (small, {"pickle_protocol": 5} | LEGACY),
        "views": (views(), {}),
        "views_legacy": (views(), LEGACY),
        "checkpoint": (checkpoint(), {}),
        "checkpoint_legacy": (checkpoint(), LEGACY),
        "lightning": (lightning(), {}),
        "module": (filled(torch.nn.LSTM(2, 3)), {}),
        "module_legacy": ({"epoch": 3, "net": filled(Whole())}, LEGACY),
    }
    for name, (value, options) in saves.items():
        torch.save(value, HERE / f"{name}.pt", **options)
    torch.serialization.set_crc32_options(False)
    torch.save(small, HERE / "small_no_checksums.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(2, 3), "fc": torch.nn.Linear(3, 1)})
        torch.jit.save(torch.jit.script(filled(module)), HERE / "scripted.pt")


if __name__ == "__main__":
    main()
