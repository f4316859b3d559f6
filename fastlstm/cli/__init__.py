"""The ``fastlstm`` command."""

from .run import main

__all__ = ["main"]
