"""``python -m stagewright.adapters.cli``: the command line without its script."""

from . import main

main()
