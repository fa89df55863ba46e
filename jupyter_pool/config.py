"""Every option of a pool: its default, its help, what it may be.

One object holds them all. An option that is unknown or impossible is an
`InvalidRequest` that names it, whether it comes from a call or from a Jupyter
configuration file (``c.KernelPool.size = 4``). What a call says wins.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from traitlets import Bool, Enum, TraitError, TraitType, Unicode, default
from traitlets.config import Application, Config, Configurable
from traitlets.config.loader import DeferredConfig, LazyConfigValue

from jupyter_pool._cpus import default_size
from jupyter_pool._quantities import parse_size, parse_time
from jupyter_pool._reprs import size as size_text
from jupyter_pool.errors import InvalidRequest

__all__ = ["PoolConfig", "default_size", "parse_size", "parse_time"]


class _Count(TraitType[Any, Any]):
    """A whole number from `least` on, or None if `optional`."""

    def __init__(self, *, least: int, optional: bool = False, **kwargs: Any) -> None:
        super().__init__(allow_none=optional, **kwargs)
        self.least = least
        self.info_text = f"a whole number of at least {least}" + (" or None" if optional else "")

    def validate(self, obj: Any, value: Any) -> int:
        # Through __index__, so that NumPy's integers count too, but not True.
        if not isinstance(value, bool):
            try:
                number: int = value.__index__()
            except AttributeError:
                pass
            else:
                if number >= self.least:
                    return number
        raise TraitError(self.info_text)

    def from_string(self, s: str) -> int | None:
        if self.allow_none and s.lower() == "none":
            return None
        try:
            return int(s)
        except ValueError:
            raise TraitError(self.info_text) from None


class _Threads(TraitType[Any, Any]):
    """A whole number from one on, "auto", or None."""

    info_text = "a whole number of at least 1, 'auto' or None"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_none=True, **kwargs)

    def validate(self, obj: Any, value: Any) -> int | str:
        if value == "auto":
            return "auto"
        if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
            raise TraitError(self.info_text)
        return int(value)

    def from_string(self, s: str) -> int | str | None:
        if s.lower() in ("none", "auto"):
            return None if s.lower() == "none" else "auto"
        try:
            return int(s)
        except ValueError:
            raise TraitError(self.info_text) from None


class _Seconds(TraitType[Any, Any]):
    """A duration in seconds, None if `optional`; zero only if `zero`."""

    def __init__(self, *, optional: bool = False, zero: bool = False, **kwargs: Any) -> None:
        super().__init__(allow_none=optional, **kwargs)
        self.zero = zero
        least = "at least 0" if zero else "more than 0"
        self.info_text = f'a time of {least}: seconds, or a text such as "1.5s", "10m", "2h"' + (
            ', or None (also "none") for no limit' if optional else ""
        )

    def validate(self, obj: Any, value: Any) -> float | None:
        try:
            seconds = parse_time(value)
        except InvalidRequest:
            raise TraitError(self.info_text) from None
        if (seconds is None and not self.allow_none) or (seconds == 0 and not self.zero):
            raise TraitError(self.info_text)
        return seconds

    def from_string(self, s: str) -> str:
        return s  # validate() reads texts


class _Size(TraitType[Any, Any]):
    """A number of bytes from `least` on, None for no limit."""

    def __init__(self, *, least: int, **kwargs: Any) -> None:
        super().__init__(allow_none=True, **kwargs)
        self.least = least
        self.info_text = (
            f"a size of at least {size_text(least)}: bytes, or a text such as "
            '"500kB", "20MB", "2GiB", or None (also "none") for no limit'
        )

    def validate(self, obj: Any, value: Any) -> int | None:
        try:
            size = parse_size(value)
        except InvalidRequest:
            raise TraitError(self.info_text) from None
        if size is not None and size < self.least:
            raise TraitError(self.info_text)
        return size

    def from_string(self, s: str) -> str:
        return s  # validate() reads texts


class _Folder(TraitType[Any, Any]):
    """An existing folder as an absolute path, or None."""

    info_text = "the path of an existing folder, or None"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_none=True, **kwargs)

    def validate(self, obj: Any, value: Any) -> str:
        try:
            path = os.path.abspath(os.path.expanduser(os.fsdecode(value)))
            if value and os.path.isdir(path):
                return path
        except (TypeError, ValueError):  # not a path, or with a null byte
            pass
        raise TraitError(self.info_text)

    def from_string(self, s: str) -> str | None:
        return None if s.lower() == "none" else s


class _Environment(TraitType[Any, Any]):
    """Environment variables' values by name, None to unset."""

    info_text = "a dict of texts by variable name; None as value unsets the variable"

    def validate(self, obj: Any, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TraitError(self.info_text)
        for name, text in value.items():
            named = isinstance(name, str) and name and "=" not in name and "\0" not in name
            if not named or not (text is None or (isinstance(text, str) and "\0" not in text)):
                # Never the value: it may be a password.
                kind = type(text).__name__
                raise TraitError(f"{self.info_text} (not so: {name!r} with a value of type {kind})")
        return dict(value)


class _Name(Unicode[Any, Any]):
    """A text that is not blank and fits on one line, or None."""

    info_text = "a text that is not empty, without line breaks or blanks around it, or None"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(None, allow_none=True, **kwargs)

    def validate(self, obj: Any, value: Any) -> Any:
        if not isinstance(value, str) or not value.isprintable() or value.strip() != value:
            raise TraitError(self.info_text)
        if not value:
            raise TraitError(self.info_text)
        return value


class _Modules(TraitType[Any, Any]):
    """Names of modules, as a tuple."""

    info_text = 'a list of module names, such as ["numpy", "pandas"]'
    default_value: Any = ()

    def validate(self, obj: Any, value: Any) -> tuple[str, ...]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TraitError(self.info_text)
        names = tuple(value)
        for name in names:
            if not isinstance(name, str) or not all(
                part.isidentifier() for part in name.split(".")
            ):
                raise TraitError(f"{self.info_text} (not so: {name!r})")
        return names

    def from_string(self, s: str) -> list[str]:
        return [name.strip() for name in s.split(",") if name.strip()]


#: What a worker runs before it takes requests.
SetupCode: TypeAlias = Callable[[], object] | str


class _Setups(TraitType[Any, Any]):
    """Code and functions, as a tuple."""

    info_text = "code as a text, a function without parameters, or a list of these"
    default_value: Any = ()

    def validate(self, obj: Any, value: Any) -> tuple[SetupCode, ...]:
        alone = isinstance(value, str) or callable(value) or not isinstance(value, Iterable)
        setups = (value,) if alone else tuple(value)
        for setup in setups:
            if not (setup.strip() if isinstance(setup, str) else callable(setup)):
                raise TraitError(f"{self.info_text} (not so: {setup!r})")
        return setups

    def from_string(self, s: str) -> str:
        return s


#: The smallest possible `output_limit`, in bytes: room for a few messages.
LEAST_OUTPUT = 10_000
#: The smallest possible `memory_limit`, in bytes: a little more than a new worker has to itself.
LEAST_MEMORY = 50_000_000


class PoolConfig(Configurable):
    """The options of one pool. In configuration files the section is ``KernelPool``."""

    name = _Name(
        help="""The pool's name, by which get_pool() and %%pool_exec --pool find it. Without
        one it is called pool-1, pool-2, and so on. A name in use is an error.""",
    ).tag(config=True)
    size = _Count(
        least=1,
        help="""How many workers the pool keeps. Default: the CPUs that this process may use, by
        affinity and cgroup quota, at most 8.""",
    ).tag(config=True)
    overflow = _Count(
        least=0,
        default_value=0,
        help="""How many workers more may be started while requests wait; they go again after
        max_idle.""",
    ).tag(config=True)
    lazy = Bool(
        False,
        help="""Start each worker when a request needs it, instead of all of them with the
        pool.""",
    ).tag(config=True)
    reserve = _Count(
        least=0,
        default_value=0,
        help="""How many standby workers to keep warm beyond size, each to take the place of one
        that is lost, recycled, or wanted as overflow.""",
    ).tag(config=True)
    kernel_name = _Name(
        help="""The kernelspec that workers run, as `jupyter kernelspec list` names it. None is
        the pool's own Python kernel in the interpreter of this process.""",
    ).tag(config=True)
    isolation = Enum(
        ("namespace", "process", "none"),
        "namespace",
        help="""What separates a request from the next on the same worker: "namespace" resets
        the namespace, working folder, environment and so on, while imported modules stay warm;
        "process" gives each request a worker that has served nobody, and replaces it
        afterwards; "none" leaves everything as it is.""",
    ).tag(config=True)
    checkout_timeout = _Seconds(
        optional=True,
        zero=True,
        default_value=30.0,
        help="""How long a request of execute*() and execute_program() waits for a worker, in
        seconds; 0 does not wait. submit(), map(), submit_code(), the magics and `jupyter pool exec`
        wait as long as it takes. None: no limit.""",
    ).tag(config=True)
    operation_timeout = _Seconds(
        optional=True,
        default_value=120.0,
        help="""How long the code of execute*() and execute_program() may run, in seconds, before
        it is interrupted. What else there is has no limit unless it is given one. None: no
        limit.""",
    ).tag(config=True)
    max_waiting = _Count(
        least=0,
        default_value=0,
        help="""How many requests may wait for a worker; one more is refused as PoolSaturated.
        0: no limit.""",
    ).tag(config=True)
    max_tasks = _Count(
        least=1,
        optional=True,
        default_value=None,
        help="""Replace a worker after so many requests. None: no limit.""",
    ).tag(config=True)
    max_lifetime = _Seconds(
        optional=True,
        default_value=None,
        help="""Replace a worker that is so many seconds old, when it is free. Each worker's limit
        is up to a tenth shorter, so that they do not all go at once. None: no limit.""",
    ).tag(config=True)
    max_idle = _Seconds(
        optional=True,
        default_value=60.0,
        help="""Stop a worker beyond size that was idle for so many seconds. None: keep it.""",
    ).tag(config=True)
    preload = _Modules(
        help="""Modules that workers import before they are ready, such as ["numpy", "pandas"]. Where
        there is a fork server (Linux) they are imported once, and workers share their memory.""",
    ).tag(config=True)
    setup = _Setups(
        help="""What each worker runs before it takes requests: code, a function without parameters, or a
        list of these, run in their order. What it leaves in the namespace is there for every request; a
        failure is a WorkerStartError. See also KernelPool.setup.""",
    ).tag(config=True)
    threads_per_worker = _Threads(
        default_value="auto",
        help="""How many threads NumPy's, SciPy's and other libraries may use for one request (those of
        OpenBLAS, MKL, BLIS and OpenMP). "auto": the usable CPUs divided by the busy workers, when the
        request starts, so that a lone one has them all; or as environment variables say, where one such as OMP_NUM_THREADS is set. None:
        what the libraries do by themselves.""",
    ).tag(config=True)
    output_limit = _Size(
        least=LEAST_OUTPUT,
        default_value=20_000_000,
        help="""How many bytes of output a worker sends for one request: text, displays and values,
        as they travel. What is more is left out between its beginning and its end, and a line says
        where. Not for kernels other than the pool's own. None: no limit.""",
    ).tag(config=True)
    memory_limit = _Size(
        least=LEAST_MEMORY,
        default_value=None,
        help="""How much memory a worker may have, in bytes or as "8GB": what it shares with no other
        worker, and its child processes. Looked at while a request runs; one that exceeds it ends as
        MemoryLimitExceeded, and its worker is killed and replaced. A worker that has grown by more
        than half of it is replaced when it is free. None: no limit.""",
    ).tag(config=True)
    env = _Environment(
        help="""Environment variables for workers, on top of those of this process; None as
        value unsets one.""",
    ).tag(config=True)
    cwd = _Folder(
        default_value=None,
        help="""The folder in which workers run code. None: that of this process.""",
    ).tag(config=True)
    interrupt_grace = _Seconds(
        zero=True,
        default_value=2.0,
        help="""How many seconds interrupted code has to come to an end before its worker is
        killed and replaced.""",
    ).tag(config=True)
    start_timeout = _Seconds(
        default_value=30.0,
        help="""How many seconds a worker has from its start until it is ready.""",
    ).tag(config=True)
    health_check_interval = _Seconds(
        optional=True,
        default_value=30.0,
        help="""How often to ask idle workers for a sign of life, in seconds; one that gives none
        within 5 seconds is killed and replaced. None: never.""",
    ).tag(config=True)
    session_ttl = _Seconds(
        optional=True,
        default_value=3600.0,
        help="""Forget a session after so many seconds without a request. None: never.""",
    ).tag(config=True)
    max_sessions = _Count(
        least=1,
        default_value=10_000,
        help="""How many sessions to remember; beyond it those longest inactive are
        forgotten.""",
    ).tag(config=True)

    @default("env")
    def _default_env(self) -> dict[str, str | None]:
        return {}

    @default("size")
    def _default_size(self) -> int:
        return default_size()

    @classmethod
    def section_names(cls) -> list[str]:
        """Return the section's name in configuration files: that of the class users know."""
        return ["KernelPool"]

    @classmethod
    def option_names(cls) -> list[str]:
        """Return all options' names, in the order of their definition."""
        options = cls.class_trait_names(config=True)
        return [name for name in cls.__dict__ if name in options]

    @classmethod
    def build(cls, options: Mapping[str, Any] | None = None) -> PoolConfig:
        """Return a validated configuration.

        The defaults are overridden by the section ``KernelPool`` of the running
        Jupyter application's configuration, if there is one, and that by
        `options`.

        Raises
        ------
        InvalidRequest
            Names the option that is unknown or whose value is impossible, and
            says what is possible.
        """
        options = dict(options or {})
        section = _application_section()
        cls._check_known(section, prefix="c.KernelPool.")
        cls._check_known(options)
        self = cls()
        for name, value in section.items():
            if name not in options:
                self._set(name, value, prefix="c.KernelPool.")
        for name, value in options.items():
            self._set(name, value)
        if self.preload and self.kernel_name is not None:
            raise InvalidRequest(
                f"preload={list(self.preload)!r} is for the pool's own kernel, not for "
                f"kernel_name={self.kernel_name!r}: import within the code",
                context={"option": "preload", "value": self.preload},
            )
        if self.setup and self.kernel_name is not None:
            raise InvalidRequest(
                f"setup is for the pool's own kernel, not for kernel_name={self.kernel_name!r}: "
                "run the code with each request",
                context={"option": "setup", "value": self.setup},
            )
        return self

    def change(self, name: str, value: Any) -> None:
        """Set one option, checked as in `build`.

        Raises
        ------
        InvalidRequest
            The value is impossible; says what is possible.
        """
        self._set(name, value)

    def as_dict(self) -> dict[str, Any]:
        """Return every option's value by name."""
        return {name: getattr(self, name) for name in self.option_names()}

    @classmethod
    def _check_known(cls, options: Mapping[str, Any], prefix: str = "") -> None:
        known = cls.option_names()
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=3)
                hint = f" Did you mean {' or '.join(close)}?" if close else ""
                raise InvalidRequest(
                    f"there is no option {prefix}{name}.{hint}\nOptions: {', '.join(known)}",
                    context={"option": name, "close": close, "allowed": known},
                )

    def _set(self, name: str, value: Any, prefix: str = "") -> None:
        trait = self.traits()[name]
        shown = f"={value!r}" if name != "env" else ""  # whose values may be secrets
        try:
            # Command lines and c.KernelPool.env.update() leave values whose
            # meaning depends on the option or on its default.
            if isinstance(value, DeferredConfig):
                value = value.get_value(trait)
            elif isinstance(value, LazyConfigValue):
                value = value.get_value(getattr(self, name))
            setattr(self, name, value)
        except (TraitError, ValueError) as error:
            allowed = _allowed(trait, error)
            raise InvalidRequest(
                f"{prefix}{name}{shown} is not possible: it takes {allowed}",
                context={"option": name, "allowed": allowed},
            ) from None


def _allowed(trait: TraitType[Any, Any], error: Exception) -> str:
    if isinstance(trait, Enum):
        return " or ".join(repr(value) for value in trait.values or ())
    if isinstance(trait, Bool):
        return "True or False"
    # Our own traits say it all; an error may say which part is wrong.
    return str(error) if str(error).startswith(trait.info_text) else trait.info_text


def _application_section() -> dict[str, Any]:
    """Return the running application's ``c.KernelPool`` section, possibly empty."""
    if not Application.initialized():
        return {}
    config: Config = Application.instance().config
    return dict(config["KernelPool"]) if "KernelPool" in config else {}
