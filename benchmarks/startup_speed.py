"""How long the command line takes to answer, beside the interpreter doing nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from .measuring import Ratio, alternately

EXAMPLE = Path(__file__).parent.parent / "examples" / "portrait.toml"


def startup_ratio(what: str, arguments: list[str], limit: str, *, rounds: int = 15) -> Ratio:
    """One command beside ``python -c pass``, both as new processes."""
    script = str(Path(sys.executable).with_name("stagewright"))

    def ours() -> None:
        subprocess.run([script, *arguments], check=True, capture_output=True)

    def rival() -> None:
        subprocess.run([sys.executable, "-c", "pass"], check=True)

    return Ratio(what, "python -c pass", *alternately(ours, rival, rounds=rounds), limit=limit)


def main() -> None:
    """Print the table's rows."""
    print(startup_ratio("stagewright --version", ["--version"], "at most 8").line())
    with tempfile.TemporaryDirectory() as runs:
        arguments = ["plan", str(EXAMPLE), "--runs", runs]
        print(startup_ratio("stagewright plan", arguments, "at most 15").line())


if __name__ == "__main__":
    main()
