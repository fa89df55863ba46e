"""Settings of libraries that almost everybody has, where they are loaded.

Each is read and set by its public functions, but for what is named here (checked on matplotlib 3.11,
pandas 3.1, and IPython 9.18 with matplotlib-inline 0.2): matplotlib's `rcParams` is a dict, whose
own methods neither validate nor warn; pandas keeps its options in nested dicts,
`pandas._config.config._global_config`; the notebook's figure settings are the traits of
`InlineBackend`'s only instance.
"""

from __future__ import annotations

import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jupyter_pool.kernel.tracked import Settings, Tracked

__all__ = ["library_settings"]


def library_settings() -> dict[str, list[Tracked]]:
    """What is tracked, by the module that it needs; nothing is imported for it, now or later."""
    return {
        "matplotlib_inline.config": [Settings(_read_inline, _write_inline)],
        "matplotlib": [
            Settings(_read_matplotlib, _write_matplotlib, _matches_matplotlib),
            Colormaps(),
        ],
        "pandas": [Settings(_read_pandas, _write_pandas)],
        "numpy": [Settings(_read_numpy, _write_numpy)],
        "sklearn": [Settings(_read_sklearn, _write_sklearn)],
        "decimal": [DefaultContext()],
        "resource": [Settings(_read_limits, _write_limits)],
    }


def _loaded(module: str, attribute: str) -> Any:
    """An attribute of a module, None while either is not there."""
    return getattr(sys.modules.get(module), attribute, None)


# -- matplotlib ------------------------------------------------------------------------


def _read_matplotlib() -> dict[str, Any] | None:
    found = _loaded("matplotlib", "rcParams")
    return found and _copied(dict.items(found))


def _copied(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    # Lists may be changed in place.
    return {name: list(value) if type(value) is list else value for name, value in items}


def _matches_matplotlib(baseline: dict[str, Any]) -> bool:
    return dict.__eq__(_loaded("matplotlib", "rcParams"), baseline) is True


def _write_matplotlib(changed: dict[str, Any]) -> None:
    copies = _copied(changed.items())
    dict.update(_loaded("matplotlib", "rcParams"), copies)
    pyplot: Any = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    if isinstance(copies.get("backend"), str):
        pyplot.switch_backend(copies["backend"])
    if "interactive" in copies:
        # Also what it has registered with IPython for that.
        (pyplot.ion if copies["interactive"] else pyplot.ioff)()


class Colormaps:
    """The names of matplotlib's colormaps: a name that is taken cannot be registered again."""

    def __init__(self) -> None:
        self._names = self.read()

    def read(self) -> set[str] | None:
        """The names now."""
        registry = _loaded("matplotlib", "colormaps")
        return None if registry is None else set(registry)

    def adopt(self, before: set[str] | None) -> None:
        """Keep those that an import has registered."""
        now = self.read()
        if now is not None:
            self._names = now if self._names is None else self._names | (now - (before or set()))

    def restore(self) -> None:
        """Take back what was registered since."""
        registry = _loaded("matplotlib", "colormaps")
        if registry is None or (self._names is not None and len(registry) == len(self._names)):
            return
        if self._names is None:
            self._names = self.read()
            return
        for name in set(registry) - self._names:
            registry.unregister(name)


# -- how a notebook shows figures -----------------------------------------------------------

_INLINE_TRAITS = ("figure_formats", "print_figure_kwargs", "close_figures", "rc")


def _read_inline() -> dict[str, Any] | None:
    backend = _loaded("matplotlib_inline.config", "InlineBackend")
    if backend is None:
        return None
    made = backend._instance
    if made is None:
        return {name: backend.class_traits()[name].default() for name in _INLINE_TRAITS}
    return {
        name: getattr(made, name).copy() if name != "close_figures" else made.close_figures
        for name in _INLINE_TRAITS
    }


def _write_inline(changed: dict[str, Any]) -> None:
    made = _loaded("matplotlib_inline.config", "InlineBackend")._instance
    for name, value in changed.items():
        # Its observers register the formatters for figures.
        setattr(made, name, value if name == "close_figures" else value.copy())


# -- pandas -----------------------------------------------------------------------------


def _read_pandas() -> dict[str, Any] | None:
    options = _loaded("pandas._config.config", "_global_config")
    if options is None or _loaded("pandas", "set_option") is None:
        return None
    return dict(_flatten(options, ""))


def _flatten(options: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if type(value) is dict:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _write_pandas(changed: dict[str, Any]) -> None:
    set_option = _loaded("pandas", "set_option")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an option may be deprecated: it is only put back
        for name, value in changed.items():
            set_option(name, value)


# -- NumPy, scikit-learn, decimal -----------------------------------------------------------


def _read_numpy() -> dict[str, Any] | None:
    # Where NumPy keeps them in context variables (errors since 2.0), a request takes them along.
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "set_printoptions") or not hasattr(numpy, "geterr"):
        return None
    return {
        "print": numpy.get_printoptions(),
        "errors": numpy.geterr(),
        "call": numpy.geterrcall(),
        "buffer": numpy.getbufsize(),
    }


def _write_numpy(changed: dict[str, Any]) -> None:
    numpy: Any = sys.modules["numpy"]
    if "print" in changed:
        numpy.set_printoptions(**changed["print"])
    if "errors" in changed:
        numpy.seterr(**changed["errors"])
    if "call" in changed:
        numpy.seterrcall(changed["call"])
    if "buffer" in changed:
        numpy.setbufsize(changed["buffer"])


def _read_sklearn() -> dict[str, Any] | None:
    read = _loaded("sklearn", "get_config")
    return read and dict(read())


def _write_sklearn(changed: dict[str, Any]) -> None:
    _loaded("sklearn", "set_config")(**changed)


class DefaultContext:
    """What `decimal` makes new contexts from; the current one is a request's own."""

    def __init__(self) -> None:
        self._context: Any = None
        self._before: Any = None
        self._state: Any = None
        self._look: Callable[[Any], Any] = repr
        self._find()

    def _find(self) -> None:
        context = _loaded("decimal", "DefaultContext")
        if context is not None:
            # The C implementation has flags and traps as plain numbers too: quicker than text.
            self._look = _look_at_context if hasattr(context, "_traps") else repr
            self._context, self._before = context, context.copy()
            self._state = self._look(context)

    def read(self) -> Any:
        """Something to compare."""
        return None if self._context is None else self._look(self._context)

    def adopt(self, before: Any) -> None:
        """Keep what an import has set."""
        if self._context is None or self.read() != before:
            self._find()

    def restore(self) -> None:
        """Make it as it was."""
        context, before = self._context, self._before
        if context is None or self._look(context) == self._state:
            return
        for name in _FIELDS:
            setattr(context, name, getattr(before, name))
        context.flags.update(before.flags)
        context.traps.update(before.traps)


_FIELDS = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp")
_look_at_context = operator.attrgetter(*_FIELDS, "_traps", "_flags")


# -- the system's limits: who changes them has imported `resource` -----------------------------


def _read_limits() -> dict[str, Any] | None:
    found = vars(sys.modules.get("resource", sys)).items()
    read = _loaded("resource", "getrlimit")
    return read and {name: read(it) for name, it in found if name.startswith("RLIMIT_")}


def _write_limits(changed: dict[str, Any]) -> None:
    resource: Any = sys.modules["resource"]
    for name, value in changed.items():
        resource.setrlimit(getattr(resource, name), value)
