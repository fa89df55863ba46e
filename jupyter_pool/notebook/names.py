"""Which of the notebook's names a cell reads.

A `%%pool_exec` cell runs in a namespace that knows nothing of the notebook, so
the names that it reads have to go along. Python's own compiler says which they
are: the cell, as IPython would run it (magics and ``!shell`` lines turned into
calls), is compiled piece by piece, and the instructions of the code objects
tell global reads from global writes, with every scoping rule of the running
Python applied. Around that a small walk over the statements keeps track of what the
cell surely has assigned itself before it reads it: that need not be sent.

Two kinds of reads come out:

needed
    the cell reads it, and nothing before that in the cell gives it a value;
optional
    the cell may read it: it also assigns it, in a branch, in a loop, or before
    a function that reads it is called; or it is only mentioned in a text
    (``!ls {folder}``, ``df.query("x > @limit")``). Sent if it can be sent; no
    error if not.
"""

from __future__ import annotations

import ast
import dis
import inspect
import re
import string
import warnings
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["CellNames", "find_names", "is_shell_name"]

_READS = frozenset(
    {
        "LOAD_NAME",
        "LOAD_GLOBAL",
        "LOAD_FROM_DICT_OR_GLOBALS",  # Python 3.12: class bodies
        "DELETE_NAME",
        "DELETE_GLOBAL",
    }
)
_WRITES = frozenset({"STORE_NAME", "STORE_GLOBAL"})
# Code that runs where it stands, although it has a code object of its own.
_IMMEDIATE = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>"})

# Magics whose argument or body is Python that runs in the same namespace.
_PYTHON_LINE_MAGICS = frozenset({"time", "timeit", "prun", "memit", "mprun", "lprun"})
_PYTHON_CELL_MAGICS = frozenset({"time", "timeit", "capture", "prun", "memit"})

_SHELL_NAME = re.compile(r"_+|_i+|_i?\d+|_[ido]h|_exit_code|_sh|__\w+__|In|Out|exit|quit")
_QUERY_NAME = re.compile(r"@\s*([^\W\d]\w*)")


@dataclass(frozen=True)
class CellNames:
    """The global names that a cell reads, in the order of first reading."""

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


def is_shell_name(name: str, value: Any) -> bool:
    """Tell IPython's own names (``In``, ``_3``, ``exit``, ...) from the user's."""
    if _SHELL_NAME.fullmatch(name) or name == "get_ipython":
        return True
    # Newer IPythons put a guarded `open` into the namespace.
    return name == "open" and str(getattr(value, "__module__", "")).startswith("IPython")


def find_names(cell: str, transform: Callable[[str], str]) -> CellNames:
    """Return the global names that `cell` reads.

    Parameters
    ----------
    cell
        The source as the user typed it.
    transform
        Turns it into plain Python, as `InteractiveShell.transform_cell` does.

    A cell that is not valid Python reads nothing: the worker will say what is
    wrong with it, with the usual traceback.
    """
    found = _Found(transform)
    with warnings.catch_warnings():
        # Such as one about an escape in a string: the worker gives it, once.
        warnings.simplefilter("ignore")
        found.cell(cell)
    needed = dict.fromkeys(found.needed)
    # When a function is called is not known: what the cell assigns anywhere,
    # it may have assigned by then.
    needed.update(dict.fromkeys(name for name in found.later if name not in found.stored))
    optional = dict.fromkeys([*found.later, *found.optional])
    return CellNames(tuple(needed), tuple(name for name in optional if name not in needed))


@dataclass
class _CodeNames:
    now: set[str] = field(default_factory=set)  # read where the code stands
    later: set[str] = field(default_factory=set)  # read when a function is called
    stored: set[str] = field(default_factory=set)


def _code_names(code: CodeType) -> _CodeNames:
    """Return what a module-level code object and all code inside read and write globally."""
    names = _CodeNames()
    _collect(code, names, names.now, top=True)
    return names


def _collect(code: CodeType, names: _CodeNames, reads: set[str], *, top: bool) -> None:
    # A class body keeps its names to itself: what it stored, it reads back.
    own: set[str] = set()
    is_class = not top and not code.co_flags & inspect.CO_OPTIMIZED
    for instruction in dis.get_instructions(code):
        name = instruction.argval
        if instruction.opname in _READS:
            if name not in own:
                reads.add(name)
        elif instruction.opname in _WRITES:
            if is_class and instruction.opname == "STORE_NAME":
                own.add(name)
            else:
                names.stored.add(name)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            runs_here = not constant.co_flags & inspect.CO_OPTIMIZED or (
                constant.co_name in _IMMEDIATE
            )
            _collect(constant, names, reads if runs_here else names.later, top=False)


def _compile(node: ast.stmt | ast.expr) -> CodeType | None:
    tree: ast.Module | ast.Expression
    if isinstance(node, ast.expr):
        tree, mode = ast.Expression(node), "eval"
    else:
        tree, mode = ast.Module([node], []), "exec"
    try:
        code = compile(
            tree,
            "<cell>",
            mode,
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
    except (SyntaxError, ValueError):
        return None
    assert isinstance(code, CodeType)
    return code


class _Found:
    """Collects over one cell, including the cells inside it (``%%time``)."""

    def __init__(self, transform: Callable[[str], str]) -> None:
        self.transform = transform
        # Dicts as ordered sets: the order must not change from run to run.
        self.needed: dict[str, None] = {}
        self.optional: dict[str, None] = {}
        self.later: dict[str, None] = {}
        self.stored: set[str] = set()  # in the part of the cell seen so far

    def cell(self, source: str, bound: frozenset[str] = frozenset()) -> frozenset[str]:
        """Take in a cell; return what is surely assigned after it."""
        try:
            tree = ast.parse(self.transform(source))
            compile(tree, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return bound
        for call in _calls(tree):
            self.call(call)
        return self.block(tree.body, bound)

    # Statements. `bound` is what the cell surely has assigned so far.

    def block(self, body: Iterable[ast.stmt], bound: frozenset[str]) -> frozenset[str]:
        for statement in body:
            bound = self.statement(statement, bound)
        return bound

    def statement(self, node: ast.stmt, bound: frozenset[str]) -> frozenset[str]:
        match node:
            case ast.If():
                self.leaf(node.test, bound)
                return self.block(node.body, bound) & self.block(node.orelse, bound)
            case ast.While():
                self.leaf(node.test, bound)
                self.block(node.body, bound)
                self.block(node.orelse, bound)
                return bound
            case ast.For() | ast.AsyncFor():
                self.leaf(node.iter, bound)
                self.block(node.body, bound | self.target(node.target, bound))
                self.block(node.orelse, bound)
                return bound
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.leaf(item.context_expr, bound)
                    if item.optional_vars is not None:
                        bound |= self.target(item.optional_vars, bound)
                return self.block(node.body, bound)
            case ast.Match():
                return self.match(node, bound)
            case ast.Try():
                return self.attempt(node, bound)
            case ast.Break() | ast.Continue() | ast.Pass():
                return bound
        if type(node).__name__ == "TryStar":  # Python 3.11
            return self.attempt(node, bound)  # type: ignore[arg-type]
        return self.simple(node, bound)

    def match(self, node: ast.Match, bound: frozenset[str]) -> frozenset[str]:
        self.leaf(node.subject, bound)
        for case in node.cases:
            captured = set()
            for part in ast.walk(case.pattern):
                if isinstance(part, (ast.MatchAs, ast.MatchStar)) and part.name:
                    captured.add(part.name)
                elif isinstance(part, ast.MatchMapping) and part.rest:
                    captured.add(part.rest)
                elif isinstance(part, (ast.MatchValue,)):
                    self.leaf(part.value, bound)
                elif isinstance(part, ast.MatchClass):
                    self.leaf(part.cls, bound)
            self.stored |= captured
            inside = bound | captured
            if case.guard is not None:
                self.leaf(case.guard, inside)
            self.block(case.body, inside)
        return bound

    def attempt(self, node: ast.Try, bound: frozenset[str]) -> frozenset[str]:
        after = self.block(node.orelse, self.block(node.body, bound))
        for handler in node.handlers:
            inside = bound
            if handler.type is not None:
                self.leaf(handler.type, bound)
            if handler.name:
                self.stored.add(handler.name)
                inside |= {handler.name}
            handled = self.block(handler.body, inside)
            if not (handler.body and isinstance(handler.body[-1], ast.Raise)):
                after &= handled
        finished = self.block(node.finalbody, bound)
        return after | (finished - bound)

    def simple(self, node: ast.stmt, bound: frozenset[str]) -> frozenset[str]:
        """Take in a statement without statements of this level inside."""
        code = _compile(node)
        if code is None:
            return bound
        names = _code_names(code)
        own = {node.name} if isinstance(node, _DEFINITIONS) else set()
        self.note(names.now - bound, names.later - bound - own, names.stored)
        if isinstance(node, ast.Delete):
            return bound - names.now
        return bound | _assigned(node)

    def leaf(self, node: ast.expr, bound: frozenset[str]) -> None:
        code = _compile(node)
        if code is not None:
            names = _code_names(code)
            self.note(names.now - bound, names.later - bound, names.stored)

    def target(self, node: ast.expr, bound: frozenset[str]) -> frozenset[str]:
        """Take in a place that is assigned to; it may read (``a[i]``)."""
        assignment = ast.Assign(targets=[node], value=ast.Constant(None))
        ast.copy_location(assignment, node)
        ast.fix_missing_locations(assignment)
        self.simple(assignment, bound)
        return _assigned(assignment)

    def note(self, now: set[str], later: set[str], stored: set[str]) -> None:
        for name in sorted(now):
            (self.optional if name in self.stored else self.needed).setdefault(name)
        for name in sorted(later):
            self.later.setdefault(name)
        self.stored |= stored

    # Calls that hide names in texts.

    def call(self, call: _TextCall) -> None:
        if call.kind == "query":
            self.mention(_QUERY_NAME.findall(call.text))
            return
        self.mention(_expanded_names(call.text))
        if call.kind == "line" and call.magic != "":
            code = _python_tail(call.text)
            if code is not None:
                names = _code_names(code)
                if call.magic in _PYTHON_LINE_MAGICS:
                    self.note(names.now, names.later, names.stored)
                else:
                    self.mention(sorted(names.now | names.later))
        elif call.kind == "cell" and call.magic in _PYTHON_CELL_MAGICS:
            self.cell(call.body)

    def mention(self, names: Iterable[str]) -> None:
        for name in names:
            self.optional.setdefault(name)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _assigned(node: ast.stmt) -> frozenset[str]:
    """Return the names that have a value for certain once `node` has run."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return frozenset({node.name})
        case ast.Import():
            return frozenset(a.asname or a.name.partition(".")[0] for a in node.names)
        case ast.ImportFrom():
            return frozenset(a.asname or a.name for a in node.names)
        case ast.Assign():
            targets: list[ast.expr] = node.targets
        case ast.AugAssign():
            targets = [node.target]
        case ast.AnnAssign() if node.value is not None:
            targets = [node.target]
        case _:
            return frozenset()
    return frozenset(
        part.id
        for target in targets
        for part in ast.walk(target)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    )


@dataclass(frozen=True)
class _TextCall:
    kind: str  # "shell", "line", "cell" or "query"
    text: str
    magic: str = ""
    body: str = ""


def _calls(tree: ast.AST) -> Iterator[_TextCall]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
        strings = [text for text in texts if isinstance(text, str)]
        method = node.func.attr
        if method in {"query", "eval"} and strings:
            yield _TextCall("query", strings[0])
        owner = node.func.value
        if not (
            isinstance(owner, ast.Call)
            and isinstance(owner.func, ast.Name)
            and owner.func.id == "get_ipython"
        ):
            continue
        if method in {"system", "getoutput"} and len(strings) == 1:
            yield _TextCall("shell", strings[0])
        elif method == "run_line_magic" and len(strings) == 2:
            yield _TextCall("line", strings[1], magic=strings[0])
        elif method == "run_cell_magic" and len(strings) == 3:
            yield _TextCall("cell", strings[1], magic=strings[0], body=strings[2])


def _expanded_names(text: str) -> list[str]:
    """Return the names in ``{expression}`` and ``$name``, which IPython fills in."""
    from IPython.utils.text import DollarFormatter

    names: dict[str, None] = {}
    try:
        fields = list(DollarFormatter().parse(text))
    except ValueError:
        return []  # not a template, for instance awk's braces: IPython leaves it alone
    for _literal, expression, spec, _conversion in fields:
        for part in (expression, *_spec_fields(spec)):
            code = _python(part) if part else None
            if code is not None:
                found = _code_names(code)
                names.update(dict.fromkeys(sorted(found.now | found.later)))
    return list(names)


def _spec_fields(spec: str | None) -> list[str]:
    try:
        return [part[1] for part in string.Formatter().parse(spec or "") if part[1]]
    except ValueError:
        return []


def _python(text: str) -> CodeType | None:
    try:
        code = compile(
            text.strip(),
            "<cell>",
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
    except (SyntaxError, ValueError):
        return None
    assert isinstance(code, CodeType)
    return code


def _python_tail(text: str) -> CodeType | None:
    """Compile a magic's argument, leaving out the options in front of it."""
    rest = text.strip()
    while rest:
        code = _python(rest)
        if code is not None:
            return code
        if not rest.startswith("-"):
            # The value of an option, or no Python at all.
            parts = rest.split(None, 1)
            if len(parts) < 2:
                return None
            rest = parts[1]
            continue
        rest = rest.partition(" ")[2].lstrip()
    return None


def present(names: Iterable[str], *namespaces: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `names` that the namespaces have, the first one winning."""
    values: dict[str, Any] = {}
    for name in names:
        for namespace in namespaces:
            if name in namespace:
                if not is_shell_name(name, namespace[name]):
                    values[name] = namespace[name]
                break
    return values
