"""Public names that are loaded when first asked for.

`stagewright --version` and `plan` must not pay for locks, signals and the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str,
    homes: Mapping[str, Sequence[str]],
    *,
    modules: Sequence[str] = (),
    classes_of: str | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__``, which also gives ``__all__``, and ``__dir__`` of a package.

    ``homes`` maps a module to the names taken from it; ``modules`` are themselves public, and so
    are all classes of the package that the module ``classes_of`` has. No module may be called like
    a name of another one: importing it would hide that.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def load(home: str) -> Any:
        return import_module(f".{home}", package)

    def classes() -> dict[str, type]:
        if classes_of is None:
            return {}
        module = load(classes_of)
        return {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type)
            and value.__module__.startswith(f"{package}.")
            and name[0] != "_"
        }

    def public() -> list[str]:
        return sorted({*home_of, *modules, *classes()})

    def get(name: str) -> Any:
        if name == "__all__":
            return public()
        if name in modules:
            return load(name)
        if name in home_of:
            return getattr(load(home_of[name]), name)
        # A probe for something else, such as __wrapped__, loads nothing.
        if name.startswith("_") or name not in (found := classes()):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return found[name]

    return get, public
