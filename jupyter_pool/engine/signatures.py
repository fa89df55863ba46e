"""What a program takes: its inputs by name, checked before anything is sent."""

from __future__ import annotations

import difflib
import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

from jupyter_pool.errors import InvalidRequest
from jupyter_pool.serialize import check_names

__all__ = ["Inputs", "close_to"]

_BY_POSITION = inspect.Parameter.POSITIONAL_ONLY
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Inputs:
    """The inputs of one program.

    Attributes
    ----------
    required, optional
        Their names, in order.
    open
        It takes any other name as well.
    text
        As in a signature: ``question: str, k: int = 3``.
    """

    def __init__(
        self,
        required: Sequence[str] = (),
        optional: Sequence[str] = (),
        *,
        by_position: Sequence[str] = (),
        open: bool = False,  # noqa: A002
        text: str | None = None,
    ) -> None:
        self.required = tuple(required)
        self.optional = tuple(optional)
        self.open = open
        #: Those that a call cannot name.
        self._by_position = tuple(by_position)
        names = [*self.required, *self.optional, *(["**"] if open else [])]
        self.text = ", ".join(names) if text is None else text

    @classmethod
    def of_source(cls, names: Iterable[str] | None) -> Inputs:
        """Of source code: all that are named are needed."""
        return cls(check_names(names or (), what="inputs"))

    @classmethod
    def of_callable(cls, program: Callable[..., Any], names: Iterable[str] | None) -> Inputs:
        """Of something that can be called: its parameters, or those of them that are named.

        Raises
        ------
        InvalidRequest
            A name that it does not take, or one that it needs is not among the names.
        """
        wanted = None if names is None else check_names(names, what="inputs")
        parameters = _parameters(program)
        if parameters is None:
            return cls(wanted or (), open=wanted is None)
        named = [one for one in parameters if one.kind not in _VARIADIC]
        has_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
        if wanted is not None:
            _check_wanted(wanted, named, has_any)
            known = {one.name for one in named}
            text = [*(_shown(one) for one in named if one.name in wanted)]
            text += [name for name in wanted if name not in known]
        else:
            text = [*map(_shown, named), *(["**"] if has_any else [])]
        optional = [one.name for one in named if one.default is not one.empty]
        names = [one.name for one in named] if wanted is None else wanted
        return cls(
            [name for name in names if name not in optional],
            [name for name in names if name in optional],
            by_position=[one.name for one in named if one.kind is _BY_POSITION],
            open=has_any and wanted is None,
            text=", ".join(text),
        )

    def check(self, program_id: str, inputs: object) -> dict[str, Any]:
        """The inputs as a dict.

        Raises
        ------
        InvalidRequest
            Names what is missing and what is too much, and what the program takes.
        """
        if inputs is None:
            inputs = {}
        if not isinstance(inputs, Mapping):
            raise InvalidRequest(
                f"inputs takes a dict of values by name, not {type(inputs).__name__}",
                context={"program_id": program_id},
            )
        given = dict(inputs)
        known = [*self.required, *self.optional]
        missing = [name for name in self.required if name not in given]
        extra = [name for name in given if name not in known]
        if self.open:
            extra = [name for name in extra if not isinstance(name, str)]
        if missing or extra:
            parts = []
            if missing:
                parts.append(f"needs {_listed(missing)}")
            if extra:
                hints = "".join(close_to(str(name), known) for name in extra)
                parts.append(f"does not take {_listed(extra)}{hints}")
            raise InvalidRequest(
                f"the program {program_id!r} {', and '.join(parts)}\n"
                f"  It takes {self._described()}. Nothing was run.",
                context={"program_id": program_id, "missing": missing, "extra": extra},
            )
        return given

    def split(self, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Checked inputs as arguments of a call, by position and by name."""
        args = []
        for name in self._by_position:
            if name not in given:
                break  # an optional one: what comes after it cannot be reached by position
            args.append(given[name])
        rest = {k: v for k, v in given.items() if k not in self._by_position[: len(args)]}
        return tuple(args), rest

    def _described(self) -> str:
        names = [*self.required, *(f"{name} (optional)" for name in self.optional)]
        if self.open:
            names.append("any other name")
        return ", ".join(names) or "no inputs"


def close_to(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _listed(names: Iterable[object]) -> str:
    return " and ".join(map(repr, names))


def _parameters(program: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """Its parameters; None if nothing is known of them."""
    found = _read(program)
    # A module of a neural network, or of DSPy, is called with anything and hands it on.
    if found is not None and all(one.kind in _VARIADIC for one in found):
        # Not looked up as an attribute: DSPy takes that for a call and warns.
        forward = inspect.getattr_static(program, "forward", None)
        if isinstance(forward, FunctionType) and (parameters := _read(forward)):
            return parameters[1:]  # without self
    return found


def _read(program: Callable[..., Any]) -> list[inspect.Parameter] | None:
    try:
        return list(inspect.signature(program).parameters.values())
    except (TypeError, ValueError):  # some built-in functions
        return None


def _check_wanted(wanted: list[str], named: list[inspect.Parameter], has_any: bool) -> None:
    known = [one.name for one in named]
    for name in wanted:
        if name not in known and not has_any:
            takes = ", ".join(known) or "nothing"
            raise InvalidRequest(
                f"inputs: the program has no parameter {name!r}{close_to(name, known)}; "
                f"it takes {takes}"
            )
    for one in named:
        if one.default is one.empty and one.name not in wanted:
            raise InvalidRequest(f"inputs: the program also needs {one.name!r}")


def _shown(parameter: inspect.Parameter) -> str:
    text = parameter.name
    if parameter.annotation is not parameter.empty:
        said = parameter.annotation
        text += f": {said if isinstance(said, str) else inspect.formatannotation(said)}"
    if parameter.default is not parameter.empty:
        equals = " = " if ":" in text else "="
        try:
            text += f"{equals}{reprlib.repr(parameter.default)}"
        except Exception:  # noqa: BLE001 - users' code
            text += f"{equals}…"
    return text
