"""neuralhydrology on a CPU: its training of a CudaLSTM, unchanged but for one line.

With neuralhydrology (Kratzert et al., JOSS 2022) hydrologists train LSTMs to tell the flow of
rivers from the weather. Its CudaLSTM is a torch.nn.LSTM, which trains on CPUs too. Its trainer runs
here twice from the same configuration and seed: as it is, and with the line

    fastlstm.torch.accelerate(trainer.model)

between the two calls that neuralhydrology's `start_training` consists of. All else is theirs: data
set, model, head, loss, optimizer and loop.

    pip install ".[torch]"
    pip install neuralhydrology
    python examples/torch_neuralhydrology.py

The data that neuralhydrology is made for (CAMELS) are no part of the package, so the rivers here
are computed: ten basins that store and drain differently, under ten weathers, in the files of its
GenericDataset. They show that both trainings are the same, and their times; how well an LSTM
forecasts real rivers they cannot show. The sizes are usual ones: a year of days, batches of 256,
64 units.

On one thread the program takes a minute.
"""

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import fastlstm.torch

try:
    import pandas
    from neuralhydrology.training.basetrainer import BaseTrainer
    from neuralhydrology.utils.config import Config
except ImportError as error:
    sys.exit(f"torch_neuralhydrology.py needs: pip install neuralhydrology ({error})")

BASINS, YEARS = 10, 6
PLAIN, FAST = "as it is", "accelerated"


def write_basins(folder: Path) -> None:
    """Write rain, evaporation and flow in mm a day, the basins' attributes, and their list."""
    rng = np.random.default_rng(0)
    days = pandas.date_range("2000-01-01", f"{1999 + YEARS}-12-31", name="date")
    evaporation = 2 - 1.5 * np.cos(2 * np.pi * days.day_of_year.to_numpy() / 365.25)
    attributes = []
    (folder / "time_series").mkdir()
    (folder / "attributes").mkdir()
    for number in range(BASINS):
        rim, drain = rng.uniform(20, 60), rng.uniform(0.0002, 0.002)
        rain = np.where(rng.random(len(days)) < 0.3, rng.gamma(0.5, 20, len(days)), 0)
        flow, storage = np.empty(len(days)), 20.0
        for day in range(len(days)):  # what is over the rim runs off, and much of it at once
            storage = max(storage + rain[day] - evaporation[day], 0)
            flow[day] = drain * storage**2 + 0.5 * max(storage - rim, 0)
            storage -= flow[day]
        columns = {"rain": rain, "evaporation": evaporation, "flow": flow}
        table = pandas.DataFrame(columns, index=days, dtype="float32")
        table.to_xarray().to_netcdf(folder / "time_series" / f"basin{number}.nc")
        attributes.append({"basin": f"basin{number}", "rim": rim, "drain": drain})
    pandas.DataFrame(attributes).to_csv(folder / "attributes" / "attributes.csv", index=False)
    names = "\n".join(row["basin"] for row in attributes)
    (folder / "basins.txt").write_text(names + "\n")


def configuration(folder: Path, name: str, epochs: int, updates: int) -> Config:
    """Return the configuration of a run, which neuralhydrology's users write as a YAML file."""
    first = {"train": "01/01/2001", "validation": "01/01/2004", "test": "01/01/2005"}
    last = {"train": "31/12/2003", "validation": "31/12/2004", "test": "31/12/2005"}
    return Config(
        {
            "experiment_name": name,
            "run_dir": folder / "runs",
            "dataset": "generic",
            "data_dir": folder,
            **{f"{period}_basin_file": folder / "basins.txt" for period in first},
            **{f"{period}_start_date": first[period] for period in first},
            **{f"{period}_end_date": last[period] for period in first},
            "dynamic_inputs": ["rain", "evaporation"],
            "static_attributes": ["rim", "drain"],
            "target_variables": ["flow"],
            "seq_length": 365,
            "predict_last_n": 1,
            "model": "cudalstm",
            "head": "regression",
            "hidden_size": 64,
            "initial_forget_bias": 3,
            "output_dropout": 0.4,
            "loss": "NSE",
            "optimizer": "Adam",
            "learning_rate": {0: 1e-2},
            "clip_gradient_norm": 1,
            "batch_size": 256,
            "epochs": epochs,
            "max_updates_per_epoch": updates,
            "seed": 0,
            "device": "cpu",
            "num_workers": 0,
            "verbose": 0,
            "log_tensorboard": False,
            "save_weights_every": epochs,
        }
    )


class Trainer(BaseTrainer):
    """neuralhydrology's trainer, which also keeps the mean loss and the seconds of each epoch."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def _train_epoch(self, epoch: int) -> None:
        begin = time.perf_counter()
        super()._train_epoch(epoch)
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(float(np.mean(self.experiment_logger._metrics["loss"])))


def main(arguments: list[str] | None = None) -> dict[str, Trainer]:
    """Train both ways, print, and return what trained."""
    parser = argparse.ArgumentParser(description="neuralhydrology's CudaLSTM, accelerated on a CPU")
    parser.add_argument("--epochs", type=int, default=3, help="of each training (3)")
    parser.add_argument("--updates", type=int, default=10, help="of each epoch (10)")
    options = parser.parse_args(arguments)

    logging.getLogger("neuralhydrology").setLevel(logging.WARNING)
    trainers = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_basins(folder)
        for way in (PLAIN, FAST):
            trainer = Trainer(configuration(folder, way, options.epochs, options.updates))
            trainer.initialize_training()
            if way == FAST:
                print("accelerated:", ", ".join(fastlstm.torch.accelerate(trainer.model)))
            trainer.train_and_validate()
            trainers[way] = trainer

    print(f"\n{'epoch':>5}" + "".join(f"{f'loss {way}':>20}{'seconds':>9}" for way in trainers))
    for epoch in range(options.epochs):
        row = [(t.losses[epoch], t.seconds[epoch]) for t in trainers.values()]
        print(f"{epoch + 1:5}" + "".join(f"{loss:20.7f}{taken:9.1f}" for loss, taken in row))
    return trainers


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
