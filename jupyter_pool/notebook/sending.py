"""What goes along with a cell, and what to say when that is not right.

The values are looked up here; the pool pickles them when the request is made.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from jupyter_pool._reprs import size as size_text
from jupyter_pool.errors import SerializationError

from .names import find_names, present

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from IPython.core.interactiveshell import InteractiveShell

    from jupyter_pool.errors import ExecutionError
    from jupyter_pool.pool import KernelPool

    from .arguments import ExecOptions

__all__ = [
    "Inputs",
    "choose_inputs",
    "explain_missing",
    "explain_unsendable",
    "inputs_for",
    "say_size",
    "size_notice",
]

#: From how many bytes on it is said what is sent.
LARGE = 100_000_000
_SAMPLE = 50

_MISSING = re.compile(r"'(\w+)' is not defined")
_NAME_ERRORS = frozenset({"NameError", "UndefinedVariableError"})


@dataclass
class Inputs:
    """The values for one cell.

    Attributes
    ----------
    values
        What is sent, by name.
    optional
        Those of them that the cell can probably do without.
    left_out
        Why an optional one could not be sent, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    left_out: dict[str, str] = field(default_factory=dict)

    def leave_out(self, error: SerializationError) -> bool:
        """Drop the variable that an attempt to send failed on; False if it is needed."""
        name = error.context.get("variable")
        if "request_id" in error.context or name not in self.optional:
            return False
        del self.values[name]
        self.optional -= {name}
        self.left_out[name] = str(error.context.get("reason", error))
        return True

    def forget_values(self) -> None:
        """Keep the names only: who holds the result need not hold what was sent."""
        self.values = dict.fromkeys(self.values)


def inputs_for(
    pool: KernelPool,
    code: str,
    options: ExecOptions,
    shell: InteractiveShell,
    namespaces: list[Mapping[str, Any]],
    *,
    without: Collection[str] = (),
) -> Inputs:
    """Return the values that `code` gets in that pool; see `choose_inputs`."""
    if pool.config.kernel_name is not None and not options.inputs:
        return Inputs()  # not our kernel, perhaps not even Python: the code is all it gets
    return choose_inputs(code, options, shell.transform_cell, *namespaces, without=without)


def choose_inputs(
    code: str,
    options: ExecOptions,
    transform: Callable[[str], str],
    *namespaces: Mapping[str, Any],
    without: Collection[str] = (),
) -> Inputs:
    """Return the values that `code` gets, from the namespaces, the first one winning.

    Names that it gets otherwise are in `without`.

    Raises
    ------
    UsageError
        A name given with ``--in`` is in none of them.
    """
    chosen = present(options.inputs, *namespaces)
    for name in options.inputs:
        if name not in chosen:
            known = {known for namespace in namespaces for known in namespace}
            close = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(f"--in: this notebook has no variable {name!r}{hint}")
    if not options.auto:
        return Inputs(chosen)
    names = find_names(code, transform)
    wanted = [name for name in (*names.needed, *names.optional) if name not in without]
    found = present(wanted, *namespaces)
    optional = frozenset(found.keys() & set(names.optional)) - chosen.keys()
    return Inputs({**found, **chosen}, optional)


def explain_unsendable(error: SerializationError, options: ExecOptions) -> SerializationError:
    """Return the error of the pool, told in the words of the notebook."""
    name = error.context.get("variable")
    if name is None or "request_id" in error.context:
        return error
    reason = error.context.get("reason", "it cannot be pickled")
    if name in options.inputs:
        advice = f"Next: make {name!r} inside the cell, and leave it out of --in."
    else:
        advice = (
            f"Next: make {name!r} inside the cell, or say what to send: --in NAMES "
            "(only these), --in none (nothing)."
        )
    how = "" if name in options.inputs else "the cell reads it, but "
    return SerializationError(
        f"{name!r} cannot be sent to the worker: {how}{reason}\n  Nothing was run.\n  {advice}",
        context=error.context,
    )


def explain_missing(
    error: ExecutionError, inputs: Inputs, options: ExecOptions, namespace: Mapping[str, Any]
) -> str:
    """Return how to send what a NameError missed, or an empty text."""
    found = _MISSING.search(error.evalue)
    if error.ename not in _NAME_ERRORS or found is None:
        return ""
    name = found[1]
    if name in inputs.values or not present([name], namespace):
        return ""
    if name in inputs.left_out:
        return (
            f"This notebook has {name!r}, but it cannot be sent: {inputs.left_out[name]}\n"
            "Make it inside the cell."
        )
    given = list(options.inputs)
    if options.auto:
        given.insert(0, "auto")
    return (
        f"This notebook has {name!r}, but it was not sent.\n"
        f"Next: %%pool_exec --in {','.join([*given, name])}"
    )


def size_notice(values: Mapping[str, Any]) -> str:
    """Return a line that says what is sent if it is a lot, else an empty text."""
    sizes = {name: estimate_size(value) for name, value in values.items()}
    total = sum(sizes.values())
    if total <= LARGE:
        return ""
    largest = sorted(sizes, key=lambda name: sizes[name], reverse=True)[:3]
    parts = [f"{name} {size_text(sizes[name])}" for name in largest if sizes[name] > total / 100]
    return (
        f"Sending {size_text(total)} to the worker: {', '.join(parts)}. "
        "(--in NAMES chooses what to send.)"
    )


def say_size(values: Mapping[str, Any]) -> None:
    """Say what is sent if it is a lot."""
    if large := size_notice(values):
        sys.stderr.write(f"{large}\n")
        sys.stderr.flush()


def estimate_size(value: Any, depth: int = 3) -> int:
    """Estimate a value's size in bytes, in microseconds: from what it says of itself."""
    try:
        if isinstance(value, type):
            return 0
        usage = getattr(value, "memory_usage", None)  # pandas
        if callable(usage):
            used = usage(deep=False)
            return int(used.sum() if hasattr(used, "sum") else used)
        nbytes = getattr(value, "nbytes", None)  # NumPy, xarray, torch, memoryview
        if isinstance(nbytes, int):
            return nbytes
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            return sys.getsizeof(value) + _contents(value, depth)
        return sys.getsizeof(value)
    except Exception:  # noqa: BLE001 - any class may be in a notebook; only a notice depends on it
        return 0


def _contents(value: Any, depth: int) -> int:
    """Estimate from a few of a container's items, evenly spread."""
    if depth == 0 or not value:
        return 0
    items = [*value.items()] if isinstance(value, dict) else value
    if isinstance(items, (set, frozenset)):
        items = list(items)
    step = max(1, len(items) // _SAMPLE)
    sample = items[::step]
    return round(sum(estimate_size(item, depth - 1) for item in sample) * len(items) / len(sample))
