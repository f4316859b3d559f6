"""Make torch_world.zip: small checkpoints of Darts, neuralforecast and neuralhydrology.

Run in an environment of its own, once:

    pip install torch==2.13.0 darts==0.48.1 neuralforecast==3.3.0 neuralhydrology==1.13.0
    RAY_TRAIN_V2_ENABLED=0 python make_torch_world_files.py

For each model there is its checkpoint, as ``name/...``, and ``name.npz`` with an input ``x`` as the
LSTM, or the network before it, takes it, and the output ``y`` of their own forward method.
"""

import io
import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

warnings.filterwarnings("ignore")
HERE = Path(__file__).parent
members = {}
QUIET = {
    "enable_progress_bar": False, "logger": False, "enable_checkpointing": False,
    "accelerator": "cpu",
}  # fmt: skip


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def stir(module):
    """Give all parameters other numbers, so that nothing is small or zero."""
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.normal(size=parameter.shape) * 0.5))
    return module.eval()


def lean(path):
    """Return a checkpoint without the state of its optimiser, which is most of it."""
    content = torch.load(path, weights_only=False)
    for name in ("optimizer_states", "lr_schedulers", "loops", "callbacks"):
        content.pop(name, None)
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def keep(name, x, y):
    file = io.BytesIO()
    np.savez(file, x=x, y=y.detach().numpy())
    members[f"{name}.npz"] = file.getvalue()


def make_darts():
    from darts import TimeSeries
    from darts.models import BlockRNNModel, RNNModel
    from darts.utils.data.torch_datasets.utils import ModuleStage, PLModuleInput
    from darts.utils.likelihood_models.torch import GaussianLikelihood

    series = TimeSeries.from_values(np.sin(np.arange(60) / 5).astype("float32"))
    covariates = TimeSeries.from_values(random(80, 2))
    common = {"n_epochs": 1, "batch_size": 8, "random_state": 0, "pl_trainer_kwargs": QUIET}
    rnn = {"model": "LSTM", "input_chunk_length": 6, "training_length": 8, **common}
    block = {"model": "LSTM", "input_chunk_length": 6, "hidden_dim": 5, **common}
    models = {
        "darts_rnn": (RNNModel(hidden_dim=5, n_rnn_layers=2, dropout=0.1, **rnn), 1, {}),
        "darts_rnn_covariates": (
            RNNModel(hidden_dim=4, likelihood=GaussianLikelihood(), **rnn), 3,
            {"future_covariates": covariates}),
        "darts_block": (
            BlockRNNModel(output_chunk_length=3, hidden_fc_sizes=[4, 3], activation="Tanh",
                          **block),
            1, {}),
        "darts_block_last": (BlockRNNModel(output_chunk_length=1, n_rnn_layers=2, **block), 1, {}),
        "darts_block_long": (BlockRNNModel(output_chunk_length=8, **block), 1, {}),
        "darts_block_norm": (
            BlockRNNModel(output_chunk_length=2, use_reversible_instance_norm=True, **block),
            1, {}),
        "darts_gru": (RNNModel(hidden_dim=5, **(rnn | {"model": "GRU"})), 1, {}),
    }  # fmt: skip
    for name, (model, width, given) in models.items():
        model.fit(series, verbose=False, **given)
        module = stir(model.model)
        model.trainer.save_checkpoint(f"{name}.pt.ckpt")
        members[f"{name}/{name}.pt.ckpt"] = lean(f"{name}.pt.ckpt")
        x = random(2, 6, width)
        parts = {"past_target": torch.from_numpy(x[:, :, :1])}
        if width > 1:
            parts["future_covariates"] = torch.from_numpy(x[:, :, 1:])
        with torch.no_grad():
            y = module(PLModuleInput(stage=ModuleStage.TRAIN, **parts)).prediction
        keep(name, x, y)
        if name == "darts_rnn":
            model.save("whole.pt")
            members["darts_whole/whole.pt"] = Path("whole.pt").read_bytes()


def make_neuralforecast():
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import LSTM

    frame = {"unique_id": "a", "ds": pd.date_range("2020-01-01", periods=60)}
    frame = pd.DataFrame(
        {**frame, "y": np.sin(np.arange(60) / 5), "z": random(60), "w": random(60)}
    )
    options = {"max_steps": 1, "encoder_hidden_size": 5, "decoder_hidden_size": 4, "input_size": 6}
    options |= {key: value for key, value in QUIET.items() if key != "enable_checkpointing"}
    models = {
        "nf": (LSTM(h=3, decoder_layers=3, encoder_n_layers=2, **options), 1),
        "nf_quantiles": (
            LSTM(h=1, loss=MQLoss(level=[80]), hist_exog_list=["z"], decoder_activation="Tanh",
                 **options), 2),
        "nf_recurrent": (LSTM(h=3, recurrent=True, **options), 1),
        "nf_future": (LSTM(h=3, futr_exog_list=["w"], **options), 2),
        "nf_long": (LSTM(h=8, **options), 1),
        "nf_gelu": (LSTM(h=3, decoder_activation="GELU", **options), 1),
    }  # fmt: skip
    for name, (model, width) in models.items():
        forecast = NeuralForecast(models=[model], freq="D")
        forecast.fit(frame)
        module = stir(forecast.models[0])
        forecast.save(name, overwrite=True, save_dataset=False)
        (path,) = Path(name).glob("*_0.safetensors")
        members[f"{name}/{path.name}"] = path.read_bytes()
        if name == "nf":  # versions before 3.3 wrote this
            file = io.BytesIO()
            plain = {k: v for k, v in module.hparams.items() if type(v) in (int, str, float, bool)}
            torch.save({"hyper_parameters": plain, "state_dict": module.state_dict()}, file)
            members["nf_legacy/LSTM_0.ckpt"] = file.getvalue()
        x = random(2, 6, width)
        batch = dict.fromkeys(("futr_exog", "hist_exog", "stat_exog"))
        batch["insample_y"] = torch.from_numpy(x[:, :, :1])
        if width > 1:
            other = torch.from_numpy(x[:, :, 1:])
            batch["hist_exog"] = other
            batch["futr_exog"] = torch.cat([other, other[:, :3]], dim=1)
        with torch.no_grad():
            keep(name, x, module(batch))
            if name == "nf":
                keep("nf_legacy", x, module(batch))


def make_neuralhydrology():
    from neuralhydrology.modelzoo import get_model
    from neuralhydrology.utils.config import Config

    dense = {"type": "fc", "hiddens": [4, 3], "activation": "tanh", "dropout": 0.1}
    small = {"type": "fc", "hiddens": [2], "activation": "sigmoid", "dropout": 0.0}
    models = {
        "nh": {},
        "nh_relu": {"output_activation": "relu"},
        "nh_softplus": {"output_activation": "softplus"},
        "nh_dynamics": {"dynamics_embedding": dense},
        "nh_statics": {"statics_embedding": small},
        "nh_both": {"dynamics_embedding": dense, "statics_embedding": small},
        "nh_gmm": {"head": "gmm", "n_distributions": 2},
    }
    for name, options in models.items():
        config = {
            "model": "cudalstm", "head": "regression", "hidden_size": 5, "output_dropout": 0.4,
            "dynamic_inputs": ["a", "b", "c"], "static_attributes": ["s", "t"],
            "target_variables": ["q"], "seq_length": 6, "predict_last_n": 1, "loss": "MSE",
            "use_frequencies": [], "initial_forget_bias": 3,
            "run_dir": name, "train_dir": name, **options,
        }  # fmt: skip
        cfg = Config(config)
        module = stir(get_model(cfg))
        Path(name).mkdir()
        torch.save(module.state_dict(), f"{name}/model_epoch001.pt")
        cfg.dump_config(Path(name))
        members[f"{name}/model_epoch001.pt"] = Path(f"{name}/model_epoch001.pt").read_bytes()
        members[f"{name}/config.yml"] = Path(f"{name}/config.yml").read_bytes()
        x = random(2, 6, 5)
        x[:, :, 3:] = x[:, :1, 3:]  # static attributes are the same at all steps
        dynamic = {key: torch.from_numpy(x[:, :, k : k + 1]) for k, key in enumerate("abc")}
        with torch.no_grad():
            output = module({"x_d": dynamic, "x_s": torch.from_numpy(x[:, 0, 3:])})
        keep(name, x, output.get("y_hat", output.get("mu")))


if __name__ == "__main__":
    os.chdir(tempfile.mkdtemp())
    makers = {"darts": make_darts, "nf": make_neuralforecast, "nh": make_neuralhydrology}
    for kind in sys.argv[1:] or makers:
        makers[kind]()
    with zipfile.ZipFile(HERE / "torch_world.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
