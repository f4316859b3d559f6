"""Training: losses, optimisers, schedules, data sets, and `fit`, which brings them together."""

from .batches import Batches
from .callbacks import History, State, StopTraining
from .checkpoint import Checkpoint
from .clipping import clip_grad_norm, clip_grad_value
from .datasets import Arrays, Batch, Sequences
from .diagnosis import NonFiniteError
from .early_stopping import EarlyStopping
from .fit import fit
from .fleet import FleetError, fit_many
from .forecaster import Forecaster, is_forecaster, seasonal_naive
from .losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NSELoss,
    QuantileLoss,
    nse,
)
from .mpi import MPI
from .optimisers import SGD, Adam, AdamW, RMSprop
from .predict import predict
from .run import run
from .schedules import (
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from .splitting import split_at_gaps, split_by_time
from .standardizer import Standardizer
from .windows import Windows, windows

__all__ = [
    "Adam",
    "AdamW",
    "Arrays",
    "BCEWithLogitsLoss",
    "Batch",
    "Batches",
    "Checkpoint",
    "CosineAnnealingLR",
    "CrossEntropyLoss",
    "EarlyStopping",
    "FleetError",
    "Forecaster",
    "History",
    "HuberLoss",
    "L1Loss",
    "LinearLR",
    "MPI",
    "MSELoss",
    "NSELoss",
    "NonFiniteError",
    "OneCycleLR",
    "QuantileLoss",
    "RMSprop",
    "ReduceLROnPlateau",
    "SGD",
    "Sequences",
    "SequentialLR",
    "Standardizer",
    "State",
    "StepLR",
    "StopTraining",
    "Windows",
    "clip_grad_norm",
    "clip_grad_value",
    "fit",
    "fit_many",
    "is_forecaster",
    "nse",
    "predict",
    "run",
    "seasonal_naive",
    "split_at_gaps",
    "split_by_time",
    "windows",
]
