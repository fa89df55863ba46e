"""What cells show in other front ends than JupyterLab with widgets: see `support.front_ends`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.front_ends import FrontEnd, JupyterLab, Model, NbClient, VSCode

FRONT_ENDS: dict[str, Callable[[], FrontEnd]] = {
    "vscode": VSCode,
    "vscode-without-widgets": lambda: VSCode(widgets=False),
    "lab": JupyterLab,
    "lab-without-widgets": lambda: JupyterLab(widgets=False),
    "nbclient": NbClient,
}
#: So that the pool's last requests are not taken for those of a test.
NUMBERS = itertools.count(1000)
WAIT_FOR = (
    "import os, time\ndef wait_for(name):\n    while not os.path.exists(name): time.sleep(0.01)"
)


@pytest.fixture(scope="module", params=FRONT_ENDS)
def front_end(request: pytest.FixtureRequest) -> Iterator[FrontEnd]:
    """Each of the front ends, with a pool of two workers."""
    front_end = FRONT_ENDS[request.param]()
    try:
        front_end.run(f"%load_ext jupyter_pool\n%pool_start --size 2;\n{WAIT_FOR}")
        yield front_end
    finally:
        front_end.close()


class Gates:
    """Files that cells wait for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> str:
        return os.fspath(self._folder / name)

    def open(self, name: str) -> None:
        (self._folder / name).touch()


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def hear_what_it_knows(front_end: FrontEnd) -> None:
    """That a JupyterLab knows no widgets is a message, which waits while cells run."""
    if isinstance(front_end, JupyterLab) and not front_end.widgets:
        front_end.run("pass")
        front_end.run("pass")


def test_a_cell_shows_what_it_prints_displays_and_raises(front_end: FrontEnd) -> None:
    cell = front_end.run(
        "%%pool_exec\nfrom IPython.display import HTML\nprint('one')\ndisplay(HTML('<b>two</b>'))\n"
        "print('three')\n1/0"
    )
    shown = front_end.shows(cell)
    assert shown.startswith("one\n\n<b>two</b>\nthree\n")
    assert "ZeroDivisionError: division by zero" in shown


def test_a_value_is_a_result(front_end: FrontEnd) -> None:
    (output,) = front_end.outputs(front_end.run("%%pool_exec\n20 + 2"))
    assert output["output_type"] == "execute_result"
    assert output["data"]["text/plain"] == "22"


def test_a_handle_goes_on_changing_while_another_cell_runs(
    front_end: FrontEnd, gates: Gates
) -> None:
    job = front_end.run(
        f"%%pool_exec --bg train\nfor n in range(3):\n    print('epoch', n, flush=True)\n"
        f"    wait_for({gates.path('step')!r} + str(n))"
    )
    hear_what_it_knows(front_end)
    busy = front_end.start(f"wait_for({gates.path('free')!r})")
    front_end.until(lambda: "epoch 0" in front_end.shows(job), "the first output")
    gates.open("step0")
    front_end.until(lambda: "epoch 1" in front_end.shows(job), "the second output")
    assert "running" in front_end.shows(job)
    assert front_end.shows(busy) == ""
    assert not busy.ended
    gates.open("step1")
    front_end.until(lambda: "epoch 2" in front_end.shows(job), "the third output")
    gates.open("step2")
    front_end.until(lambda: "done" in front_end.shows(job), "its end")
    (handle,) = front_end.outputs(job)
    # A widget says so first.
    stored = {"text/html", "text/plain"}
    front_end.until(lambda: set(handle["data"]) == stored, "what notebooks store of it")
    gates.open("free")
    front_end.until(lambda: busy.ended, "the end of the other cell")


def test_a_handle_is_live_at_each_place(front_end: FrontEnd, gates: Gates) -> None:
    code = f"print('begun', flush=True)\nwait_for({gates.path('go')!r})"
    places = [front_end.run(f"%%pool_exec --bg twice\n{code}"), front_end.run("twice")]
    busy = front_end.start(f"wait_for({gates.path('free')!r})")
    gates.open("go")
    for place in places:
        front_end.until(lambda place=place: "done" in front_end.shows(place), "its end")  # type: ignore[misc]
        assert "begun" in front_end.shows(place)
    gates.open("free")
    front_end.until(lambda: busy.ended, "the end of the other cell")


def test_a_failure_in_the_background_is_announced(front_end: FrontEnd, gates: Gates) -> None:
    job = front_end.run(f"%%pool_exec --bg broken\nwait_for({gates.path('go')!r})\n1/0")
    # Not before this cell has begun, which would be told of it; and so would the job's result().
    front_end.run(
        f"open({gates.path('go')!r}, 'w').close()\n"
        "import time\nwhile not broken.done(): time.sleep(0.01)"
    )
    after = front_end.run("print('mine')")
    told, mine = front_end.outputs(after)
    assert told["text"].startswith("[broken] failed ")
    assert "ZeroDivisionError: division by zero" in told["text"]
    assert mine["text"] == "mine\n"
    if front_end.has_people:  # nobody reads what comes between the cells of others
        front_end.until(lambda: "failed" in front_end.shows(job), "the handle says so")


def test_a_sweep_is_grouped_by_item_and_summed_up(front_end: FrontEnd) -> None:
    cell = front_end.run("%%pool_exec --each n=[1, 0] --out m\nprint('item', n)\nm = 1 / n")
    shown = front_end.shows(cell)
    assert shown.index("n=1") < shown.index("item 1") < shown.index("n=0") < shown.index("item 0")
    assert "<details" in shown
    assert "1 of 2 done, 1 failed (n=0: ZeroDivisionError)" in shown


def test_input_asks_who_is_there(front_end: FrontEnd) -> None:
    code = "%%pool_exec\nname = input('who? ')\nprint('hello', name)"
    if not isinstance(front_end, Model):
        assert "StdinNotImplementedError" in front_end.shows(front_end.run(code))
        return
    front_end.answer = "Ada"
    assert front_end.shows(front_end.run(code)) == "hello Ada\n"
    assert front_end.prompts[-1] == "who? "


def test_a_display_is_updated_in_its_place(front_end: FrontEnd) -> None:
    first = front_end.run(
        "%%pool_exec\nhandle = display('before', display_id='mine')\nprint('between')\n"
        "handle.update('after')"
    )
    assert front_end.shows(first) == "'after'\nbetween\n"


def test_animations_of_several_cells_stay_apart(front_end: FrontEnd, gates: Gates) -> None:
    code = (
        "from IPython.display import clear_output\nfor n in range(20):\n    clear_output(wait=True)\n"
        "    print(name, 'frame', n, flush=True)\n"
    )
    front_end.run("name = 'left'")
    left = front_end.run(f"%%pool_exec --bg left\n{code}wait_for({gates.path('go')!r})")
    front_end.run("name = 'right'")
    right = front_end.run(f"%%pool_exec --bg right\n{code}wait_for({gates.path('go')!r})")
    front_end.run("name = 'here'")
    here = front_end.run(code)
    assert front_end.shows(here) == "here frame 19\n"
    gates.open("go")
    busy = front_end.start("%pool_wait left right")
    front_end.until(lambda: busy.ended, "the end of both")
    last = front_end.start(f"wait_for({gates.path('free')!r})")
    for name, cell in (("left", left), ("right", right)):
        front_end.until(lambda cell=cell: "done" in front_end.shows(cell), f"{name} says so")  # type: ignore[misc]
        assert front_end.shows(cell).count(" frame ") == 1
        assert f"{name} frame 19" in front_end.shows(cell)
    gates.open("free")
    front_end.until(lambda: last.ended, "the end")


def test_an_animation_of_a_pool_cell_ends_with_its_last_frame(front_end: FrontEnd) -> None:
    cell = front_end.run(
        "%%pool_exec\nfrom IPython.display import clear_output\nfor n in range(20):\n"
        "    clear_output(wait=True)\n    print('frame', n)"
    )
    assert front_end.shows(cell) == "frame 19\n"


def test_a_bar_is_a_widget_or_a_text(front_end: FrontEnd) -> None:
    cell = front_end.run(
        "%%pool_exec\nfrom tqdm.notebook import tqdm\nfor _ in tqdm(range(4), desc='steps'): pass"
    )
    shown = front_end.shows(cell)
    assert "steps" in shown
    assert ("4/4" if front_end.widgets else "0/4") in shown


@pytest.mark.parametrize("option", ["", " --html"])
def test_the_monitor_shows_what_runs_later(front_end: FrontEnd, option: str) -> None:
    monitor = front_end.run(f"%pool_monitor{option}")
    hear_what_it_knows(front_end)
    later = f"number = {next(NUMBERS)}"
    front_end.run(f"%%pool_exec\n{later}")
    if front_end.has_people:
        front_end.until(lambda: later in front_end.shows(monitor), "the cell in the monitor")
    assert later in front_end.shows(monitor)  # for nbclient no later than its cell ends


def test_no_view_of_a_widget_is_built_a_second_time(front_end: FrontEnd, gates: Gates) -> None:
    if not isinstance(front_end, JupyterLab):
        pytest.skip("platform: only JupyterLab keeps the first one too")
    before = front_end.rebuilt
    cells = [front_end.run("%pool_monitor")]
    code = f"print('begun', flush=True)\nwait_for({gates.path('go')!r})"
    cells.append(front_end.run(f"%%pool_exec --bg viewed\n{code}"))
    busy = front_end.start(f"wait_for({gates.path('free')!r})")
    front_end.until(lambda: "begun" in front_end.shows(cells[1]), "the output")
    gates.open("go")
    front_end.until(lambda: "done" in front_end.shows(cells[1]), "the end")
    gates.open("free")
    front_end.until(lambda: busy.ended, "the end of the other cell")
    assert front_end.rebuilt == before


def test_under_a_runner_what_was_said_last_stays() -> None:
    """What another thread says may come between two cells, so it is said again; but not too late."""
    nbclient = NbClient()
    try:
        cell = nbclient.run(
            "import threading\nfrom jupyter_pool.notebook.places import Place\n"
            "place = Place(get_ipython(), 'test', needs_widget=False)\n"
            "place.show({'text/plain': 'first'})\n"
            "def say(what):\n    place.update({'text/plain': what})\n"
            "def say_in_a_thread(what):\n"
            "    thread = threading.Thread(target=say, args=(what,))\n"
            "    thread.start(); thread.join()\n"
            "say_in_a_thread('older')\nsay('newest')"
        )
        assert nbclient.shows(cell) == "newest"
        nbclient.run("say_in_a_thread('from a thread')")
        assert nbclient.shows(cell) == "from a thread"
    finally:
        nbclient.close()
