"""`%pool_monitor` in a kernel, as a front end sees it, and in a shell without one."""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest
from integration.notebook.front_end import DEADLINE, Notebook

from jupyter_pool import KernelPool
from jupyter_pool.engine import onlookers
from jupyter_pool.errors import PoolError, PoolNotAvailable
from jupyter_pool.notebook.feed import Feed
from support.cells import Gate
from support.conditions import eventually, gone

if TYPE_CHECKING:
    from integration.notebook.front_end import Message
    from IPython.core.interactiveshell import InteractiveShell

WIDGET = "application/vnd.jupyter.widget-view+json"


class View:
    """A view of a monitor: what arrives for it on iopub, and what it asks for."""

    def __init__(self, notebook: Notebook, code: str = "%pool_monitor") -> None:
        self.notebook = notebook
        run = notebook.ok(code)
        (shown,) = run.of("display_data")
        self.data = shown["data"]
        self.comm = self.data[WIDGET]["model_id"]
        (opened,) = [c for c in run.of("comm_open") if c["comm_id"] == self.comm]
        self.first: dict[str, Any] = opened["data"]["state"]["pool_state"]

    def send(self, **content: Any) -> None:
        self.notebook.tell_widget(self.comm, **content)

    def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The next state of which this is so."""
        found: dict[str, Any] = self._next(
            lambda data: data.get("state", {}).get("pool_state"),
            lambda state: state is not None and condition(state),
        )
        return found

    def refusal(self) -> str:
        content = self._next(lambda data: data.get("content"), lambda content: content is not None)
        return str(content["text"])

    def _next(self, read: Callable[[Any], Any], condition: Callable[[Any], object]) -> Any:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                message: Message = self.notebook.client.get_iopub_msg(
                    timeout=max(0.0, end - time.monotonic())
                )
            except Empty:
                pytest.fail(f"no such state within {DEADLINE:g} s")
            if message["msg_type"] != "comm_msg" or message["content"]["comm_id"] != self.comm:
                continue
            found = read(message["content"]["data"])
            if condition(found):
                return found


def test_the_widget_comes_with_a_picture_and_text(notebook: Notebook) -> None:
    notebook.rest()
    view = View(notebook)
    assert set(view.data) == {WIDGET, "text/html", "text/plain"}
    assert "<svg" in view.data["text/html"]
    assert view.data["text/plain"].startswith("Pool default: 0 of 2 busy")
    assert view.first["full"]
    assert [worker["state"] for worker in view.first["workers"]] == ["idle", "idle"]


def test_a_pool_that_a_cell_ends_with_shows_its_monitor(notebook: Notebook) -> None:
    view = View(notebook, "from jupyter_pool import get_pool\nget_pool()")
    assert view.first["pool"] == "default"
    assert view.data["text/plain"].startswith("<KernelPool 'default'")


def test_it_is_live_while_the_main_thread_is_busy(notebook: Notebook, tmp_path: Path) -> None:
    view = View(notebook)
    gate = tmp_path / "gate"
    code = f"{GATED.format(gate=os.fspath(gate))}  # seen"
    busy = notebook.send(
        f"from jupyter_pool import get_pool\npool = get_pool()\npool.execute({code!r})"
    )
    state = view.until(lambda state: state["counts"].get("busy") == 1)
    running = [block for block in state["blocks"] if block["ended"] is None]
    assert running[0]["code"].endswith("# seen")
    after = view.until(lambda later: later["seq"] > state["seq"])  # and goes on
    assert after["workers"][0]["memory"] > 1_000_000
    gate.touch()
    # Collected above were also messages of the cell; its reply is still to come.
    reply = notebook.client.get_shell_msg(timeout=DEADLINE)
    assert reply["parent_header"]["msg_id"] == busy
    view.until(lambda state: state["counts"] == {"idle": 2})


def test_nothing_is_sent_when_nothing_changes_and_when_no_view_is_open(notebook: Notebook) -> None:
    view = View(notebook)
    view.send(type="open", view="a")
    view.until(lambda state: state["full"])
    notebook.ok("monitor = _\nsent = []\nmonitor._feed._make, make = (lambda *a, **k: "
                "sent.append(1) or make(*a, **k)), monitor._feed._make")  # fmt: skip
    view.send(type="close", view="a")
    # Orders are carried out one after the other, so after this cell the view is closed.
    code = "from jupyter_pool.notebook import feed\nmonitor in feed.publisher._monitors"
    assert notebook.ok(code).text == "False"
    # Until then there may have been something to tell; and the publisher goes through those that
    # were there when it began: whoever comes now is not told before it has done with them.
    notebook.ok(
        "import threading\nclass Last:\n    told = threading.Event()\n"
        "    def refresh(self): self.told.set()\n"
        "last = Last()\nfeed.publisher.attach(last)\nassert last.told.wait(60)\n"
        "feed.publisher.detach(last)\nsent.clear()"
    )
    assert notebook.ok("%pool_exec 1\nlen(sent)").text == "0"
    view.send(type="open", view="b")
    assert view.until(lambda state: state["full"])["last_ended"] is not None
    assert notebook.ok("monitor in feed.publisher._monitors").text == "True"


def test_its_orders_change_the_pool(fresh_notebook: Notebook) -> None:
    notebook = fresh_notebook
    view = View(notebook)
    assert view.first["state"] == "none"
    view.send(type="start")
    view.send(type="resize", size=2)
    view.until(lambda state: state["size"] == 2 and state["counts"] == {"idle": 2})
    notebook.ok(
        "from jupyter_pool import get_pool\npool = get_pool()\n"
        "future = pool.submit_code('import time; time.sleep(600)')"
    )
    state = view.until(lambda state: state["counts"].get("busy") == 1)
    (running,) = [block for block in state["blocks"] if block["ended"] is None]
    view.send(type="cancel", request=running["id"])
    assert "Cancelled" in notebook.ok("type(future.exception()).__name__").text
    old = {worker["id"] for worker in state["workers"]}
    view.send(type="restart", worker=min(old))
    view.until(lambda state: state["counts"] == {"idle": 2}
               and min(old) not in {worker["id"] for worker in state["workers"]})  # fmt: skip
    view.send(type="drain")
    view.until(lambda state: state["counts"] == {"idle": 2}
               and not old & {worker["id"] for worker in state["workers"]})  # fmt: skip
    pids = notebook.ok("[worker.pid for worker in pool.get_status().workers]").text
    view.send(type="stop")
    view.until(lambda state: state["state"] == "none")
    assert notebook.ok("import jupyter_pool; jupyter_pool.list_pools()").text == "[]"
    eventually(gone(ast.literal_eval(pids)), "its workers end, though nobody waits for it")


GATED = "import os, time\nwhile not os.path.exists({gate!r}): time.sleep(0.01)"


def test_jobs_are_listed_with_their_progress_and_cancelled(
    notebook: Notebook, tmp_path: Path
) -> None:
    view = View(notebook)
    gate, first = (os.fspath(tmp_path / name) for name in ("gate", "first"))
    notebook.ok(f"%%pool_exec --bg train\n{GATED.format(gate=gate)}")
    notebook.ok(
        f"%%pool_exec --bg sweep --max 1 --each name=[{first!r}, {gate!r}]\n"
        "import os, time\nwhile not os.path.exists(name): time.sleep(0.01)"
    )
    state = view.until(lambda state: [j["state"] for j in state["jobs"]] == ["running"] * 2)
    train, sweep = state["jobs"]
    assert (train["name"], train["kind"], train["total"]) == ("train", "background", None)
    assert (sweep["name"], sweep["kind"]) == ("sweep", "each")
    assert (sweep["done"], sweep["total"], sweep["left"]) == (0, 2, None)
    assert train["started"] <= sweep["started"] <= state["now"]
    Path(first).touch()
    state = view.until(lambda state: state["jobs"][1]["done"] == 1)
    assert state["jobs"][1]["left"] > 0
    view.send(type="cancel_job", job=sweep["id"])
    view.until(lambda state: [job["name"] for job in state["jobs"]] == ["train"])
    assert notebook.ok("sweep.status").text == "'cancelled'"
    view.send(type="cancel_job", job=sweep["id"])
    assert view.refusal() == "that job has ended already"
    Path(gate).touch()
    view.until(lambda state: state["jobs"] == [])


def test_a_sweep_and_a_map_that_cells_wait_for_are_listed(
    notebook: Notebook, tmp_path: Path
) -> None:
    view = View(notebook)
    gate = os.fspath(tmp_path / "gate")
    body = GATED.format(gate=gate)
    request = notebook.send(f"%%pool_exec --each n=range(3) --each m=[1]\n{body}")
    (job,) = view.until(lambda state: state["jobs"])["jobs"]
    assert (job["name"], job["kind"], job["total"]) == ("each n, m", "each", 3)
    assert not job["cancellable"]  # but by the stop button, as any cell that is waited for
    Path(gate).touch()
    view.until(lambda state: state["jobs"] == [])
    assert _reply(notebook, request)["status"] == "ok"
    Path(gate).unlink()
    notebook.ok(
        "def wait(n):\n    import os, time\n"
        f"    while n and not os.path.exists({gate!r}): time.sleep(0.01)\n"
        "from jupyter_pool import get_pool\npool = get_pool()"
    )
    request = notebook.send("len(list(pool.map(wait, [0, 1, 1, 1], chunksize=1)))")
    (job,) = view.until(lambda state: state["jobs"] and state["jobs"][0]["done"])["jobs"]
    assert (job["name"], job["kind"], job["state"]) == ("wait()", "map", "running")
    assert (job["done"], job["total"]) == (1, 4)
    Path(gate).touch()
    view.until(lambda state: state["jobs"] == [])
    assert _reply(notebook, request)["status"] == "ok"


def test_a_cancelled_map_says_so_to_who_waits_for_it(notebook: Notebook, tmp_path: Path) -> None:
    view = View(notebook)
    notebook.ok(
        "import time, threading\nfrom jupyter_pool import get_pool\npool = get_pool()\nsaid = []\n"
        "def wait():\n"
        "    try: list(pool.map(time.sleep, [600, 600]))\n"
        "    except Exception as error: said.append(repr(error))\n"
        "thread = threading.Thread(target=wait)\nthread.start()"
    )
    (job,) = view.until(lambda state: state["jobs"])["jobs"]
    assert (job["name"], job["state"]) == ("sleep()", "waiting")
    view.send(type="cancel_job", job=job["id"])
    notebook.ok("thread.join()")
    assert "the map was cancelled" in notebook.ok("said").text
    view.until(lambda state: state["jobs"] == [] and state["counts"] == {"idle": 2})


def _reply(notebook: Notebook, request: str) -> dict[str, Any]:
    """The reply to a cell whose messages were collected with those of a view."""
    while True:
        message: Message = notebook.client.get_shell_msg(timeout=DEADLINE)
        if message["parent_header"]["msg_id"] == request:
            return dict(message["content"])


def test_what_it_cannot_do_is_said_to_the_view(notebook: Notebook) -> None:
    view = View(notebook)
    view.send(type="restart", worker=99)
    assert "has no worker 99" in view.refusal()
    view.send(type="resize", size=0)
    assert "size" in view.refusal()
    view.send(type="explode")
    assert view.refusal().startswith("no such order: 'explode'; there are resize, ")
    view.send(type="resize")
    assert view.refusal() == "'resize' needs 'size', a number, not None"


def test_html_is_replaced_under_its_display_id(notebook: Notebook) -> None:
    run = notebook.ok("%pool_monitor --html")
    (shown,) = run.of("display_data")
    assert "<svg" in shown["data"]["text/html"]
    assert WIDGET not in shown["data"]
    notebook.send("%pool_exec 2")
    end = time.monotonic() + DEADLINE
    while True:
        message = notebook.client.get_iopub_msg(timeout=max(0.0, end - time.monotonic()))
        if message["msg_type"] == "update_display_data":
            content = message["content"]
            if content["transient"] == shown["transient"]:
                break
    assert "<svg" in content["data"]["text/html"]
    notebook.client.get_shell_msg(timeout=DEADLINE)


def test_an_unknown_pool_is_waited_for_by_its_name(notebook: Notebook) -> None:
    view = View(notebook, "%pool_monitor -p later")
    assert (view.first["state"], view.first["pool"]) == ("none", "later")
    # Not with `ok`, which would drop what the view is told meanwhile, and that may be all.
    request = notebook.send("%pool_start --name later --size 1;")
    view.until(lambda state: state["pool"] == "later" and state["counts"].get("idle") == 1)
    assert _reply(notebook, request)["status"] == "ok"
    notebook.ok("%pool_stop -p later")


def test_in_a_terminal_it_is_a_table(shell: InteractiveShell) -> None:
    text = repr(shell.run_line_magic("pool_monitor", ""))
    assert text.startswith("No pool named 'default' in this kernel.")
    shell.run_line_magic("pool_start", "--size 1")
    try:
        lines = repr(shell.run_line_magic("pool_monitor", "")).splitlines()
    finally:
        shell.run_line_magic("pool_stop", "")
    assert lines[0] == "Pool default: 0 of 1 busy"
    assert lines[2].split()[:2] == ["1", "idle"]


def test_a_kernel_with_an_open_monitor_ends_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    notebook = Notebook()
    try:
        notebook.ok("import jupyter_pool\n%load_ext jupyter_pool\n%pool_start --size 1")
        View(notebook).send(type="open", view="v1")
        # So many that the last snapshot is a large message.
        notebook.ok("list(jupyter_pool.get_pool().map(abs, range(1000), chunksize=1));")
    finally:
        notebook.close()
    assert "Traceback" not in capfd.readouterr().err


def test_in_a_terminal_a_pool_shows_its_repr(shell: InteractiveShell) -> None:
    assert shell.display_formatter is not None
    with KernelPool(size=1, lazy=True) as pool:
        data, metadata = shell.display_formatter.format(pool)
    assert data.keys() == {"text/plain"}
    assert data["text/plain"].startswith(f"<KernelPool '{pool.name}'")
    assert metadata == {}


def test_a_pool_is_announced_when_it_can_be_looked_at() -> None:
    seen: list[dict[str, Any]] = []
    source = Feed(lambda: "new")
    onlookers.listen(lambda: seen.append(source.whole()))
    try:
        KernelPool(size=1, name="new").close()
    finally:
        onlookers.listen(None)
    assert [state["state"] for state in seen] == ["new", "none"]


def test_what_ended_just_before_a_pool_closed_is_told() -> None:
    source = Feed(lambda: "brief")
    with KernelPool(size=1, name="brief") as pool:
        pool.start(wait=True, timeout=DEADLINE)
        source.whole()
        pool.execute("1 / 0", check=False)
    state = source.next()
    assert state is not None
    assert (state["state"], state["error_count"]) == ("none", 1)
    assert [(block["code"], block["outcome"]) for block in state["blocks"]] == [("1 / 0", "failed")]
    after = source.next()
    assert after is None or after["blocks"] == []


def test_a_pool_that_closes_is_shown_to_its_end(tmp_path: Path) -> None:
    source = Feed(lambda: "slow to close")
    pool = KernelPool(size=1, name="slow to close")
    with Gate(tmp_path) as gate:
        future = pool.submit_code(gate.code)
        eventually(lambda: source.whole()["counts"] == {"busy": 1})
        pool.shutdown(wait=False)
        state = source.whole()
        assert (state["state"], state["counts"]) == ("closing", {"busy": 1})
        with pytest.raises(PoolNotAvailable, match="is closing"):
            source.pool()
        again = KernelPool(size=1, name="slow to close", lazy=True)  # the name is free
        assert source.whole()["state"] == "new"
        again.close()
        gate.open()
        future.result(DEADLINE)
    pool.shutdown()
    assert source.whole()["state"] == "none"


def test_an_installation_without_the_view_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from jupyter_pool.notebook import monitor

    monkeypatch.setattr(monitor, "_STATIC", tmp_path)
    monitor.widget_class.cache_clear()
    with pytest.raises(PoolError, match=r"npm run build.*--html"):
        monitor.widget_class()
