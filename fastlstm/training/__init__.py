"""Training: what to make small (losses), who changes the parameters (optimisers), how fast."""

from .callbacks import EarlyStopping, History, State, StopTraining
from .checkpoint import Checkpoint
from .datasets import Arrays, Batch, Batches, Sequences
from .diagnosis import NonFiniteError
from .forecaster import Forecaster, is_forecaster, seasonal_naive
from .loop import fit
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
from .optimisers import SGD, Adam, AdamW, RMSprop, clip_grad_norm, clip_grad_value
from .schedules import (
    CosineAnnealingLR,
    LinearLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from .standardizer import Standardizer
from .view import predict
from .windows import Windows, split_at_gaps, split_by_time, windows

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
    "Forecaster",
    "History",
    "HuberLoss",
    "L1Loss",
    "LinearLR",
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
    "is_forecaster",
    "nse",
    "predict",
    "seasonal_naive",
    "split_at_gaps",
    "split_by_time",
    "windows",
]
