"""``python -m fastlstm``: the command of `fastlstm.cli`."""

import sys

from .cli import main

sys.exit(main())
