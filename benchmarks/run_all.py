"""Runs every benchmark: ``python -m benchmarks.run_all``."""

from __future__ import annotations

from . import (
    farm,
    groups,
    http_speed,
    learning_rebuild,
    listening_speed,
    log_speed,
    queue,
    resume_speed,
    reuse_speed,
    run_speed,
    several_servers,
    sheet_speed,
    startup_speed,
    sweep_planning,
)


def main() -> None:
    """Print everything as the rows of one table, and the lines that are no ratios."""
    print("| what | rival | ours | rival's | ratio | limit |")
    print("| --- | --- | --- | --- | --- | --- |")
    startup_speed.main()
    log_speed.main()
    run_speed.main()
    resume_speed.main()
    reuse_speed.main()
    listening_speed.main()
    learning_rebuild.main()
    sweep_planning.main()
    groups.main()
    queue.main()
    sheet_speed.main()
    http_speed.main()
    several_servers.main()
    farm.main()


if __name__ == "__main__":
    main()
