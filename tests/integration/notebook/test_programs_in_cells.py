"""Programs and setups from a notebook: cells, functions and classes of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.notebook.front_end import Notebook


@pytest.fixture(autouse=True)
def _no_programs(notebook: Notebook) -> Iterator[None]:
    yield
    notebook.ok("for name in pool.list_programs(): pool.delete_program(name)")


@pytest.fixture(scope="module")
def notebook(notebook: Notebook) -> Notebook:
    notebook.ok("import jupyter_pool\npool = jupyter_pool.get_pool()")
    return notebook


def test_a_cell_is_registered_and_called(notebook: Notebook) -> None:
    run = notebook.ok(
        "%%pool_program scale --in values,by --out scaled,n --description 'Scales.'\n"
        "print('scaling')\n"
        "scaled = [value * by for value in values]\n"
        "n = len(scaled)"
    )
    assert run.messages == []
    notebook.ok("numbers = [1, 2]")
    run = notebook.ok("%pool_call scale values=numbers by=2 + 3")
    assert run.stream("stdout") == "scaling\n"
    assert run.text == "scaled = [5, 10]\nn = 2"
    run = notebook.ok("r = %pool_call -q -s me scale values=[3] by=1")
    assert run.messages == []
    assert notebook.ok("r.outputs['scaled'], r.session_id, r.program_id").text == (
        "([3], 'me', 'scale')"
    )
    assert notebook.ok("pool.get_program_info('scale').description").text == "'Scales.'"


def test_a_cell_that_replaces_a_program_says_so(notebook: Notebook) -> None:
    notebook.ok("%%pool_program it --out x\nx = 1")
    run = notebook.ok("%%pool_program it --out x\nx = 2")
    assert run.stream("stdout") == "The program 'it' was replaced.\n"
    notebook.ok("r = %pool_call it")
    assert notebook.ok("r.outputs['x']").text == "2"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%pool_call", "the program's id is missing"),
        ("%pool_call a=1", "the program's id is missing"),
        ("%pool_call itt", "did you mean 'it'?"),
        ("%pool_call it b=1", "needs 'a', and does not take 'b'"),
        ("%pool_call it a=", "a= needs a Python expression"),
        ("%pool_call it --timeout soon a=1", "is not a time"),
        ("%pool_call it 3", "'3' is no input"),
        ("%%pool_program it --in 1a\n1", "'1a' is not a variable's name"),
        ("%%pool_program\n1", "ID"),
    ],
)
def test_misuse_is_one_line_that_says_what_is_allowed(
    notebook: Notebook, line: str, said: str
) -> None:
    notebook.ok("%%pool_program it --in a\n1")
    run = notebook.run(line)
    assert run.status == "error"
    assert run.reply["ename"] == "UsageError"
    assert said in run.reply["evalue"]


def test_options_come_before_or_after_the_id(notebook: Notebook) -> None:
    notebook.ok("%%pool_program nap\nimport time; time.sleep(600)")
    for line in ("%pool_call -t 0.2 nap", "%pool_call nap -t 0.2"):
        assert notebook.run(line).reply["ename"] == "OperationTimeout"


def test_an_error_is_shown_as_the_programs(notebook: Notebook) -> None:
    notebook.ok("%%pool_program bad --in x\nnowhere(x)")
    run = notebook.run("%pool_call bad x=1")
    assert run.reply["ename"] == "ExecutionError"
    assert "nowhere" in "\n".join(run.reply["traceback"])
    notebook.ok("def divide(x, y):\n    return x / y\n_ = pool.register_program('divide', divide)")
    run = notebook.run("pool.execute_program('divide', {'x': 1, 'y': 0})")
    text = "\n".join(run.reply["traceback"])
    assert "return x / y" in text
    assert "Cell In[" in text


def test_the_notebooks_functions_and_classes_live_in_a_program(notebook: Notebook) -> None:
    notebook.ok(
        """
offset = 10
class Doc:
    def __init__(self, x): self.x = x
def helper(doc): return Doc(doc.x + offset)
class Program:
    calls = 0
    def __call__(self, doc):
        assert isinstance(doc, Doc)
        self.calls += 1
        return helper(doc), self.calls
pool.resize(size=1)
_ = pool.register_program("it", Program(), outputs=["doc", "calls"])
results = [pool.execute_program("it", {"doc": Doc(n)}) for n in range(3)]
pool.resize(size=2)
"""
    )
    found = notebook.ok(
        "[(type(r.outputs['doc']) is Doc, r.outputs['doc'].x, r.outputs['calls']) for r in results]"
    )
    assert found.text == "[(True, 10, 1), (True, 11, 2), (True, 12, 3)]"


def test_a_setup_of_the_notebook_is_what_its_cells_find(notebook: Notebook) -> None:
    notebook.ok(
        """
%pool_start --name own --size 1;
own = jupyter_pool.get_pool("own")
base = 5
def shift(x): return x + base
def prepare():
    global table
    table = [shift(x) for x in range(3)]
own.setup(prepare)
"""
    )
    run = notebook.ok("%%pool_exec --pool own --in none --out table\nprint(table)")
    assert run.stream("stdout") == "[5, 6, 7]\n"
    run = notebook.run("def broken():\n    return missing\nown.setup(broken)")
    assert run.reply["ename"] == "WorkerStartError"
    assert "return missing" in "\n".join(run.reply["traceback"])
    notebook.ok("%pool_stop --pool own")


def test_pool_start_takes_a_setup(notebook: Notebook) -> None:
    notebook.ok("%pool_start --name own --size 1 --setup 'x = 41';")
    assert notebook.ok("%pool_exec --pool own --in none x + 1").text == "42"
    notebook.ok("%pool_stop --pool own")
