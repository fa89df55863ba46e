"""Widgets that a background cell leaves behind: who answers them, for how long, and who goes first."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.notebook.front_end import Notebook
from integration.notebook.test_widgets_in_cells import SLIDER, FrontEnd, text

UNTIL_NEEDED = "widgets live until a worker is needed"

#: A cell that leaves a slider and a label, and says how to find them.
_LEAVES = f"{SLIDER}\nimport os\nprint(slider.comm.comm_id, label.comm.comm_id, os.getpid())"


@pytest.fixture
def own(fresh_notebook: Notebook) -> FrontEnd:
    """A notebook of the test's own, with one worker."""
    fresh_notebook.ok("%pool_start --size 1;\nimport jupyter_pool, time")
    # Waits in the kernel for what jobs do on threads of their own.
    fresh_notebook.ok(
        "pool = jupyter_pool.get_pool('default')\n"
        "def until(met):\n    while not met(): time.sleep(0.01)\n"
        "def states(): return [worker.state for worker in pool.get_status().workers]"
    )
    return FrontEnd(fresh_notebook)


def leave(own: FrontEnd, options: str = "train", code: str = _LEAVES, **where: str) -> list[str]:
    """Run it in the background to its end; the ids of slider and label, and its process."""
    name = options.split()[0]
    own.run(f"%%pool_exec --bg {options}\n{code}", **where)
    own.run(f"%pool_wait {name}")
    return own.run(f"print({name}.result().stdout)").stream("stdout").split()


def headline(own: FrontEnd, name: str = "train") -> str:
    return own.run(f"print({name}.headline())").stream("stdout").rstrip()


def is_live(own: FrontEnd, slider: str, label: str, value: int = 7) -> None:
    own.set(slider, value=value)
    own.until_state(label, value=f"got {value}")
    # The worker is done with that by the time it is sent the next message. What a view sends by itself
    # may be in vain without a word, should the worker be needed before it is done with this.
    own.set(slider, _view_count=value)
    own.until_state(slider, _view_count=value)


def has_moved_on(own: FrontEnd, slider: str) -> str:
    """What somebody is told who uses it."""
    own.set(slider, value=42)
    return text(own.until(lambda m: "last state" in text(m)))


def test_they_are_live_after_the_end_until_somebody_needs_the_worker(own: FrontEnd) -> None:
    slider, label, pid = leave(own)
    assert re.fullmatch(rf"done · \d+ s · {UNTIL_NEEDED}", headline(own))
    assert re.search(
        r"train +done +1 of 1 +\d+ s +live until a worker is needed",
        own.run("%pool_jobs").text,
    )
    is_live(own, slider, label)
    # The one worker: as it is, and clean.
    run = own.run("%%pool_exec --in none\nimport os\nprint(os.getpid(), 'slider' in globals())")
    assert run.stream("stdout") == f"{pid} False\n"  # else it would wait for ever
    own.run("until(lambda: not train.held)")
    assert re.fullmatch(r"done · \d+ s", headline(own))
    assert "moved on" in has_moved_on(own, slider)


def test_four_progress_bars_keep_nobody_waiting(fresh_notebook: Notebook) -> None:
    own = FrontEnd(fresh_notebook)
    own.run("%pool_start --size 4;\nimport jupyter_pool\npool = jupyter_pool.get_pool('default')")
    bar = "from tqdm.notebook import tqdm\nfor _ in tqdm(range(3)): pass"
    for n in range(4):
        own.run(f"%%pool_exec --bg bar{n}\n{bar}")
    own.run("%pool_wait")
    own.run("%pool_wait bar0 bar1 bar2 bar3")
    assert own.run("bar0.held == bar1.held == bar2.held == bar3.held != ''").text == "True"
    assert own.run("{worker.state for worker in pool.get_status().workers}").text == "{'leased'}"
    # Who does not wait at all finds a worker, four times; and so do calls.
    run = own.run(
        "for _ in range(4): pool.execute('1', checkout_timeout=0)\n"
        "assert list(pool.map(abs, range(-8, 0))) == list(range(8, 0, -1))"
    )
    assert run.status == "ok"
    # As many as were needed, and no worker was lost by it.
    assert own.run(
        "pool.get_stats().workers_started, bool(pool.get_stats().workers_lost)"
    ).text == ("(4, False)")


@pytest.mark.parametrize(
    "leaves_nothing",
    ["1 + 1", "import ipywidgets\nipywidgets.Widget.close_all()\nipywidgets.Label('x').close()"],
)
def test_a_cell_that_leaves_none_open_keeps_nothing(own: FrontEnd, leaves_nothing: str) -> None:
    closes = f"{leaves_nothing}\nimport ipywidgets\nipywidgets.Widget.close_all()"
    leave(own, code=closes)
    assert own.run("train.held, states()").text == "('', ['idle'])"


def test_a_cell_that_fails_keeps_nothing(own: FrontEnd) -> None:
    own.run(f"%%pool_exec --bg train\n{SLIDER}\n1/0")
    own.run("train.wait()")
    assert own.run("train.status, train.held, states()").text == "('failed', '', ['idle'])"
    own.run(f"%%pool_exec --bg train --hold 1h\n{SLIDER}\n1/0")
    own.run("train.wait()")
    assert own.run("train.status, train.held, states()").text == "('failed', '', ['idle'])"


def test_cancelling_gives_the_worker_back_clean(own: FrontEnd) -> None:
    slider, _, _ = leave(own)
    assert own.run("train.cancel()").text == "True"
    own.run("until(lambda: not train.held and states() == ['idle'])")
    assert own.run("train.cancel(), train.status").text == "(False, 'done')"
    assert "moved on" in has_moved_on(own, slider)


@pytest.mark.parametrize("ends", ["%pool_cancel train", "%pool_cancel --all"])
def test_the_magic_gives_it_back_too(own: FrontEnd, ends: str) -> None:
    leave(own, "train --hold 1h")
    own.run(ends)
    own.run("until(lambda: not train.held and states() == ['idle'])")


def test_the_next_job_of_that_name_ends_it_first(own: FrontEnd) -> None:
    leave(own, "train --hold none")
    slider, label, _ = leave(own, "train --hold none")  # with the one worker
    is_live(own, slider, label)


def test_running_the_cell_again_ends_what_it_held(own: FrontEnd) -> None:
    leave(own, "one --hold none", cell_id="a")
    leave(own, "two --hold none", cell_id="a")
    own.run("until(lambda: not one.held)")  # which a thread of its own learns
    assert own.run("one.held, two.held").text == "('', 'without limit')"


def test_held_for_a_time_it_keeps_others_waiting_for_as_long(own: FrontEnd) -> None:
    slider, label, _ = leave(own, "train --hold 3s")
    assert headline(own).endswith("· widgets live for 3 s")
    run = own.run("%%pool_exec\nprint('free')")
    notices = [text(m) for m in run.messages if m["msg_type"] == "update_display_data"]
    assert any("1 of them held for widgets (--hold)" in notice for notice in notices), notices
    own.run("until(lambda: not train.held)")
    assert "moved on" in has_moved_on(own, slider)


def test_held_for_a_time_it_is_live_also_without_open_widgets(own: FrontEnd) -> None:
    leave(own, "train --hold 1h", "import asyncio\nkept = asyncio.create_task(asyncio.sleep(600))")
    assert own.run("train.held, states()").text == "('for 1 h', ['leased'])"


def test_what_callbacks_print_is_in_the_jobs_own_cell(own: FrontEnd) -> None:
    code = (
        "import ipywidgets\nbutton = ipywidgets.Button()\ndisplay(button)\n"
        "button.on_click(lambda _: print('clicked'))\nprint(button.comm.comm_id)"
    )
    request = own.notebook.send(f"%%pool_exec --bg train\n{code}")
    own.notebook.result(request)
    own.run("%pool_wait train")
    (button,) = own.run("print(train.result().stdout)").stream("stdout").split()
    own.send(button, {"method": "custom", "content": {"event": "click"}})
    update = own.until(
        lambda m: (
            m["msg_type"] == "update_display_data"
            and "clicked" in m["content"]["data"]["text/plain"]
        )
    )
    assert update["parent_header"]["msg_id"] == request
    # The result is what it was.
    assert own.run("train.result().stdout.split()").text == repr([button])


def test_a_message_that_crosses_the_cells_end_is_answered(own: FrontEnd, tmp_path: Path) -> None:
    gate = tmp_path / "go on"
    code = (
        f"{_LEAVES}\nimport time\nwhile not os.path.exists({os.fspath(gate)!r}): time.sleep(0.01)"
    )
    own.run(f"%%pool_exec --bg train\n{code}")
    own.run("until(lambda: len(train.bundle()['text/plain'].split()) > 6)")
    told = own.run("print(train.bundle()['text/plain'].splitlines()[-1])").stream("stdout")
    slider, label, _ = told.split()
    own.set(slider, value=9)  # the worker is busy
    gate.touch()
    own.until_state(label, value="got 9")
    own.run("%pool_wait train")
    is_live(own, slider, label, 10)


def test_who_needs_a_worker_does_not_wait_for_a_callback(own: FrontEnd, tmp_path: Path) -> None:
    began = tmp_path / "began"
    code = (
        "import ipywidgets, time\nbutton = ipywidgets.Button()\n"
        f"def clicked(_):\n    open({os.fspath(began)!r}, 'w').close()\n    time.sleep(600)\n"
        "button.on_click(clicked)\nprint(button.comm.comm_id)"
    )
    (button,) = leave(own, code=code)
    own.send(button, {"method": "custom", "content": {"event": "click"}})
    own.run(f"import os\nuntil(lambda: os.path.exists({os.fspath(began)!r}))")
    assert own.run("%%pool_exec\nprint('served')").stream("stdout") == "served\n"


def test_its_death_is_told_in_its_cell(own: FrontEnd) -> None:
    _, _, pid = leave(own)
    os.kill(int(pid), signal.SIGKILL)
    notice = own.until(lambda m: "last state" in text(m))
    assert "was killed (SIGKILL" in text(notice)
    own.run("until(lambda: not train.held)")


@pytest.mark.parametrize(
    "ends",
    ["pool.drain()", "%pool_stop", "pool.resize(overflow=1); pool.resize(overflow=0)"],
    ids=["drain", "stop", "resize"],
)
def test_it_ends_with_what_the_pool_does(own: FrontEnd, ends: str) -> None:
    leave(own)
    own.run(ends)
    own.run("until(lambda: not train.held)")


def test_cells_that_hold_are_listed_and_cancelled_by_their_number(own: FrontEnd) -> None:
    run = own.run(f"%%pool_exec --hold 10m\n{SLIDER}")
    name = f"In[{run.reply['execution_count']}]"
    table = own.run("%pool_jobs").text
    assert re.search(rf"{re.escape(name)} +held +– +\d+ s +live for 10 min", table), table
    own.run(f"%pool_cancel {name}")
    own.run("until(lambda: states() == ['idle'])")
    own.run(f"until(lambda: {name!r} not in repr(get_ipython().run_line_magic('pool_jobs', '')))")


def test_all_are_cancelled_together_and_nothing_if_one_is_unknown(own: FrontEnd) -> None:
    own.run(f"%%pool_exec --hold none\n{SLIDER}")
    refused = own.notebook.run("%pool_cancel In[99]").stream("stderr")
    assert "no job is called 'In[99]'" in refused
    assert own.run("states()").text == "['leased']"
    own.run("%pool_cancel --all")
    own.run("until(lambda: states() == ['idle'])")


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """One whose kernel waits for background cells."""
    monkeypatch.setenv("JUPYTER_POOL_BG", "wait")
    notebook = Notebook()
    try:
        yield notebook
    finally:
        notebook.close()


def test_who_waits_for_background_cells_waits_for_their_code_only(waiting: Notebook) -> None:
    waiting.ok("%load_ext jupyter_pool")
    waiting.ok("%pool_start --size 1;")
    waiting.ok(f"%%pool_exec --bg train --hold none\n{SLIDER}")
    assert waiting.ok("train.status, train.held").text == "('done', 'without limit')"


def test_unloading_ends_it(own: FrontEnd) -> None:
    leave(own)
    own.run("%unload_ext jupyter_pool")
    assert own.run("get_ipython().kernel.comm_manager.comms").text == "{}"
