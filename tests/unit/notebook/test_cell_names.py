"""Which names a cell reads: what is sent along, and what is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from jupyter_pool.notebook.names import find_names, is_shell_name, present

_transform = TransformerManager().transform_cell
_BUILTIN = {"print", "len", "range", "open", "ImportError", "ValueError", "sum", "int"}


def names(cell: str) -> tuple[set[str], set[str]]:
    """Return (needed, optional), without builtins and IPython's own names."""
    found = find_names(cell, _transform)
    plain = [
        {name for name in group if name not in _BUILTIN and not is_shell_name(name, None)}
        for group in (found.needed, found.optional)
    ]
    return plain[0], plain[1]


@pytest.mark.parametrize(
    ("cell", "needed"),
    [
        ("x", {"x"}),
        ("x.y[z](*a, **k)", {"x", "z", "a", "k"}),
        ("x += 1", {"x"}),
        ("x = x + 1", {"x"}),
        ("del x", {"x"}),
        ("a[i] = 3", {"a", "i"}),
        ("a.b = 3", {"a"}),
        ("x: T = v", {"T", "v"}),
        ("f'{v!r:{width}}'", {"v", "width"}),
        ("lambda p, q=d: p + q + k", {"d", "k"}),
        ("[i + o for i in n if i in m]", {"o", "n", "m"}),
        ("{k: v for k, v in pairs}", {"pairs"}),
        ("sum(x * w for x in xs)", {"w", "xs"}),
        ("(lambda: [inner for _ in r])()", {"inner", "r"}),
        ("await task", {"task"}),
        ("async with pool() as c: c.go(x)", {"pool", "x"}),
        ("async for i in source: print(i)", {"source"}),
        ("@deco\ndef f(a: T = default) -> R: return g(a)", {"deco", "T", "default", "R", "g"}),
        ("def f(n): return f(n - 1)", set()),
        ("def outer():\n  def inner(): return deep\n  return inner", {"deep"}),
        ("class A(Base, metaclass=M):\n  z = 1\n  w = z\n  def m(self): return A, h", {"Base", "M", "h"}),
        ("import numpy as np\nnp.array(x)", {"x"}),
        ("from os import path\npath.join(a)", {"a"}),
        ("assert a, b", {"a", "b"}),
        ("raise E(x) from y", {"E", "x", "y"}),
        ("match cmd:\n  case Point(x=xx): print(xx)\n  case K.v: pass\n  case _: print(d)", {"cmd", "Point", "K", "d"}),
        ("for a[j] in r: pass", {"a", "j", "r"}),
        ("x if c else y", {"x", "c", "y"}),
        ("x = 1\nx", set()),
        ("pass", set()),
    ],
)  # fmt: skip
def test_names_read_before_they_are_assigned_are_needed(cell: str, needed: set[str]) -> None:
    assert names(cell)[0] == needed


@pytest.mark.parametrize(
    "cell",
    [
        "t = 1\nprint(t)",
        "a, (b, *c) = 1, (2, 3)\nprint(a, b, c)",
        "for t in [1]:\n  u = t\n  print(t, u)",
        "with open('f') as t:\n  u = t.read()\nprint(t, u)",
        "if 1:\n  t = 1\nelse:\n  t = 2\nprint(t)",
        "try:\n  t = 1\nexcept ValueError:\n  t = 2\nprint(t)",
        "try:\n  t = 1\nexcept ValueError:\n  raise\nprint(t)",
        "try:\n  pass\nfinally:\n  t = 1\nprint(t)",
        "def t(): pass\nt()",
        "class t: pass\nt()",
        "import t.u\nt.u",
        "t: int = 1\nprint(t)",
    ],
)
def test_names_surely_assigned_first_are_not_sent(cell: str) -> None:
    assert names(cell) == (set(), set())


@pytest.mark.parametrize(
    "cell",
    [
        "for t in []: pass\nprint(t)",
        "if 0 == 1:\n  t = 1\nprint(t)",
        "while len([]):\n  t = 1\nprint(t)",
        "try:\n  t = 1\nexcept ValueError:\n  pass\nprint(t)",
        "def f(): return t\nt = 1\nf()",
        "def f():\n  global t\n  t += 1",
        "t = 1\ndel t\nprint(t)",
        "if (t := 1) > 0: print(t)",
    ],
)
def test_names_the_cell_may_have_assigned_itself_are_optional(cell: str) -> None:
    assert names(cell) == (set(), {"t"})


@pytest.mark.parametrize(
    ("cell", "needed", "optional"),
    [
        ("!ls {folder} $name ${other} $$HOME", set(), {"folder", "name", "other"}),
        ("files = !ls {folder + suffix}\nprint(files)", set(), {"folder", "suffix"}),
        ("!awk '{print $1}' f", set(), set()),
        ("%cd {folder}", set(), {"folder"}),
        ("%time f(x)", {"f", "x"}, set()),
        ("%timeit -n 10 -r 3 g(p)", {"g", "p"}, set()),
        ("thing?", set(), {"thing"}),
        ("%%time\na = b\nprint(a, c)", {"b", "c"}, set()),
        ("%%time\n%%capture out\nprint(x)", {"x"}, set()),
        ("%%bash\necho x y z", set(), set()),
        ("%%writefile {name}.py\nimport q\nprint(q, z)", set(), {"name"}),
        ("df.query('x > @limit and y < @ other')", {"df"}, {"limit", "other"}),
    ],
)
def test_names_in_magics_and_texts_are_found(
    cell: str, needed: set[str], optional: set[str]
) -> None:
    assert names(cell) == (needed, optional)


@pytest.mark.parametrize("cell", ["1 +", "x y", "return x", "def f(:", "'\0'", "break"])
def test_a_cell_that_is_no_python_reads_nothing(cell: str) -> None:
    assert names(cell) == (set(), set())


@given(st.text(max_size=60))
def test_no_text_whatever_raises(cell: str) -> None:
    find_names(cell, _transform)


@given(
    st.lists(
        st.sampled_from(
            ["a = b", "b = c", "if a:\n  c = d\nelse:\n  c = a", "for d in a: b = d", "def f(): return b",
             "del a", "c += a", "try:\n  d = a\nexcept E:\n  pass", "[a for a in c]", "f(b)"]
        ),
        max_size=6,
    )
)  # fmt: skip
def test_what_runs_with_all_names_runs_with_the_found_ones(statements: list[str]) -> None:
    """The cell must do the same with only the names found as with every name there is."""
    cell = "\n".join(statements)
    everything: dict[str, object] = {name: _Anything() for name in "abcdf"}
    everything["E"] = ValueError
    found = find_names(cell, _transform)
    sent = {name: everything[name] for name in (*found.needed, *found.optional)}
    with_all, with_sent = _outcome(cell, dict(everything)), _outcome(cell, sent)
    assert with_sent == with_all


class _Anything:
    """Can be called, added, iterated over, and is true."""

    def __call__(self, *_: object) -> _Anything:
        return self

    def __add__(self, _: object) -> _Anything:
        return self

    def __iter__(self) -> Iterator[_Anything]:
        return iter([self])


def _outcome(cell: str, namespace: dict[str, object]) -> str:
    try:
        exec(cell, namespace)
    except NameError as error:
        return str(error)
    except TypeError as error:  # a function where an iterable is wanted
        return str(error)
    return "ok"


def test_shell_names_are_told_from_the_users() -> None:
    for name in ["_", "___", "_3", "_i", "_i12", "_ih", "_oh", "_dh", "In", "Out", "exit", "quit"]:
        assert is_shell_name(name, None)
    assert is_shell_name("get_ipython", None)
    assert not is_shell_name("open", open)
    for name in ["x", "_private", "_x1", "Input", "i", "_id"]:
        assert not is_shell_name(name, None)


def test_the_first_namespace_wins_and_absent_names_are_skipped() -> None:
    assert present(["a", "b", "zz", "_3"], {"a": 1}, {"a": 2, "b": 3, "_3": 4}) == {"a": 1, "b": 3}


def test_names_come_in_the_order_of_reading() -> None:
    assert find_names("q\nb\na", _transform).needed == ("q", "b", "a")
