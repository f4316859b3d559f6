"""What a model format is: the names that each module of one has, and what they take and give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..layers import Layer
    from .source import Source, State
    from .torch_programs import Offer


class Choice(NamedTuple):
    """Which state dict of a file is wanted, where a file may hold several.

    ``key`` is the dotted path to it. Without a key, a state dict goes before all others if the
    pattern ``likely`` is found in one of its names. So the model is taken, and not the state of a
    generator or a mean that is stored beside it. ``engine`` is that of layers which a reader makes
    already, as those do that read whole graphs.
    """

    key: str | None = None
    likely: str = r"(^|\.)(weight|bias)($|_[ih][hr]|_c[ifo]|_ln)"  # names of what a layer learns
    engine: EngineChoice = "auto"

    def refuse_key(self) -> None:
        """Raise ValueError if there is a key, for a format whose files hold one state dict."""
        if self.key is not None:
            raise ValueError(
                f"key={self.key!r} is for torch checkpoints, which nest; this file is flat"
            )


MAX_BYTES = 1 << 30
"""Of one array whose size a number in a file decides, if the caller does not allow more."""


class Wish(NamedTuple):
    """How the caller of `load` wants a model that a file describes as a graph.

    ``dtype`` is None for that of the file. ``max_bytes`` bounds each array whose size a number in
    the file decides.
    """

    engine: EngineChoice = "auto"
    dtype: np.dtype[Any] | None = None
    max_bytes: int = MAX_BYTES


class Content(NamedTuple):
    """What a file holds: the state, the structure of the model or None, and what to say of it.

    ``structure`` is a description as `structure.build` takes it, and has not been checked yet.
    ``note`` stands before the fault in later errors; it tells what kind of file this is.
    ``model`` is the model in words, as its repr is, of a file that holds these and no structure.

    A file of a format that describes whole networks has no ``structure`` but ``build``, which makes
    the model. Its state has the parameters of its LSTMs, and of what else fastlstm has a layer
    for. ``recurrent`` has the arguments of these LSTMs by the prefixes of their parameters' names,
    as `structure.recurrent` gives them.

    A file of weights alone says in ``untold`` what such a file does not tell, so that no model can
    be made of it without the caller. ``offered`` makes the structure of a model whose program is
    known, if the caller says nothing else. ``notes`` is what a file says beside the model: the
    sample rate of its signal, who made it.
    """

    state: State
    structure: Any | None
    note: str = ""
    model: str = ""
    build: Callable[[Wish], Layer] | None = None
    recurrent: Mapping[str, dict[str, Any]] = {}
    untold: str = ""
    offered: Callable[[], Offer] | None = None
    notes: Mapping[str, Any] = {}


ANY = Choice()


class Format(Protocol):
    """A module that reads one format. `fastlstm.formats` lists all of them in a table.

    A file is of unknown origin. A reader refuses what it does not know with a ValueError, takes no
    more memory and time than the file's budget has, and runs nothing from the file.
    """

    @property
    def NAME(self) -> str:
        """What the format is called in errors."""

    @property
    def ORDERED(self) -> bool:
        """Whether a file keeps the order in which the layers of the model were defined."""

    def recognises(self, source: Source) -> bool:
        """Tell by its first bytes or its members whether a file is of this format."""

    def read(self, source: Source, choice: Choice = ...) -> Content:
        """Read a file; arrays have torch's names and shapes.

        Raises
        ------
        ValueError
            If the file is damaged or hostile, or does not hold what `choice` wants.
        ImportError
            If a library is missing that the format needs; the sentence says how to install it.
        """


class WrittenFormat(Protocol):
    """What `save` asks of a format: of its module, or of what stands there for one kind of file."""

    @property
    def NAME(self) -> str:
        """What the format is called in errors."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:
        """The suffixes of file names, in small letters, by which `save` chooses the format."""

    @property
    def STRUCTURED(self) -> bool:
        """Whether `write` puts the structure of the model into a file."""

    @property
    def write(self) -> Callable[..., None]:
        """Write a model into an open file: ``write(file, model, **options)``.

        The options are the format's own, and have defaults.

        Raises
        ------
        TypeError, ValueError
            If the format cannot hold the model.
        ImportError
            As for `read`.
        """
