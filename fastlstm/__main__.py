"""Runs the command of `fastlstm.cli` for ``python -m fastlstm``."""

import sys

from .cli import main

sys.exit(main())
