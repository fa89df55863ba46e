"""The panel's kernel side: what a kernel tells its front ends of pools, and what they can order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from integration.notebook.front_end import DEADLINE, Message, Notebook
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.session import Session

from jupyter_pool.engine.onlookers import VERSION

EXAMPLE = json.loads(
    Path(__file__).parents[3].joinpath("labextension/schema/pool_panel.json").read_text()
)

#: A cell that keeps the main thread until the file is there.
BUSY = """\
import pathlib, time
while not pathlib.Path({path!r}).exists():
    time.sleep(0.01)"""


class Window:
    """A page of a front end, with a panel: a client of its own."""

    def __init__(self, notebook: Notebook) -> None:
        self.client: BlockingKernelClient = notebook.manager.client()
        # Of its own, as each page has: a kernel answers whoever has the session's name.
        self.client.session = Session(key=notebook.manager.session.key)
        self.client.start_channels(shell=False, stdin=False, hb=False)
        # Its subscription is there when anything arrives.
        self.until(lambda message: message["msg_type"] == "iopub_welcome")

    def close(self) -> None:
        self.client.stop_channels()

    def ask(self, kind: str, **content: Any) -> dict[str, Any]:
        """A request on control, and its reply's content."""
        request = self.client.session.msg(kind, content)
        self.client.control_channel.send(request)
        end = time.monotonic() + DEADLINE
        while True:
            reply: Message = self.client.get_control_msg(timeout=end - time.monotonic())
            if reply["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                assert reply["msg_type"] == f"{kind.removesuffix('_request')}_reply"
                answer: dict[str, Any] = reply["content"]
                return answer

    def hello(self) -> dict[str, Any]:
        return self.ask("pool_hello", v=VERSION)

    def order(self, kind: str, pool: str = "default", **given: Any) -> dict[str, Any]:
        return self.ask("pool_command", v=VERSION, pool=pool, command={"type": kind, **given})

    def until(self, condition: Callable[[Message], object]) -> Message:
        """The next message on iopub of which it is true."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                message: Message = self.client.get_iopub_msg(timeout=max(0, end - time.monotonic()))
            except Empty:
                pytest.fail(f"no such message within {DEADLINE:g} s")
            if condition(message):
                return message

    def state(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The next state of a pool of which it is true."""
        found = self.until(lambda m: m["msg_type"] == "pool_state" and condition(m["content"]))
        content: dict[str, Any] = found["content"]
        return content

    def said(self) -> list[Message]:
        """What has come about pools up to a request of its own, which is answered last."""
        self.client.control_channel.send(self.client.session.msg("kernel_info_request"))
        found: list[Message] = []
        while True:
            message: Message = self.client.get_iopub_msg(timeout=DEADLINE)
            if message["msg_type"].startswith("pool_"):
                found.append(message)
            parent = message["parent_header"]
            if (
                parent.get("msg_type") == "kernel_info_request"
                and parent.get("session") == self.client.session.session
                and message["content"].get("execution_state") == "idle"
            ):
                return found


@pytest.fixture
def window(fresh_notebook: Notebook) -> Iterator[Window]:
    window = Window(fresh_notebook)
    window.said()  # the kernel's iopub thread is done with the subscription
    yield window
    window.close()


def kinds(messages: list[Message]) -> list[str]:
    return [message["msg_type"] for message in messages]


def test_orders_are_obeyed_while_the_main_thread_is_busy(
    fresh_notebook: Notebook, window: Window, tmp_path: Path
) -> None:
    hello = window.hello()
    assert (hello["v"], hello["pools"], hello["default"]) == (VERSION, [], "default")
    busy = fresh_notebook.send(BUSY.format(path=str(tmp_path / "end")))
    assert window.order("start")["status"] == "ok"
    state = window.state(lambda state: state["counts"].get("idle") == state["size"])
    assert state["size"] == hello["size"]
    assert window.order("resize", size=1)["status"] == "ok"
    state = window.state(lambda state: state["size"] == 1 and state["counts"] == {"idle": 1})
    worker = state["workers"][0]["id"]  # it may be the last state: nothing changes now
    assert window.order("restart", worker=worker)["status"] == "ok"
    window.state(
        lambda state: state["counts"] == {"idle": 1} and state["workers"][0]["id"] != worker
    )
    assert window.order("stop")["status"] == "ok"
    window.until(lambda m: m["msg_type"] == "pool_list" and m["content"]["pools"] == [])
    (tmp_path / "end").touch()
    assert fresh_notebook.result(busy).status == "ok"


def test_a_pool_that_closes_is_there_until_its_work_has_ended(
    fresh_notebook: Notebook, window: Window, tmp_path: Path
) -> None:
    window.hello()
    fresh_notebook.ok(
        "from jupyter_pool import KernelPool\npool = KernelPool(size=1)\n"
        f"future = pool.submit_code({BUSY.format(path=str(tmp_path / 'end'))!r})"
    )
    window.state(lambda state: state["counts"] == {"busy": 1})
    fresh_notebook.ok("pool.shutdown(wait=False)")
    state = window.state(lambda state: state["state"] == "closing")
    assert state["counts"] == {"busy": 1}
    assert window.hello()["pools"] == [state["pool"]]
    refused = window.order("cancel", pool=state["pool"], request=state["workers"][0]["request"])
    assert f"pool '{state['pool']}' is closing" in refused["evalue"]
    (tmp_path / "end").touch()
    window.until(lambda m: m["msg_type"] == "pool_list" and m["content"]["pools"] == [])
    fresh_notebook.ok("future.result(0)")


def test_requests_are_cancelled_workers_drained_and_sessions_ended(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("%pool_start --size 1;")
    fresh_notebook.ok(
        "from jupyter_pool import get_pool\npool = get_pool()\n"
        "pool.execute('1', session_id='alice')\n"
        "future = pool.submit_code('import time; time.sleep(600)')"
    )
    window.hello()
    state = window.state(lambda state: state["full"] and state["counts"] == {"busy": 1})
    assert [session["id"] for session in state["sessions"]] == ["alice"]
    running = [block for block in state["blocks"] if block["ended"] is None]
    assert window.order("cancel", request=running[0]["id"])["status"] == "ok"
    window.state(lambda state: state["counts"] == {"idle": 1})
    assert "Cancelled" in fresh_notebook.ok("type(future.exception()).__name__").text
    assert window.order("end_session", session="alice")["status"] == "ok"
    assert fresh_notebook.ok("len(pool.sessions)").text == "0"
    before = state["workers"][0]["id"]
    assert window.order("drain")["status"] == "ok"
    window.state(
        lambda state: state["counts"] == {"idle": 1} and state["workers"][0]["id"] != before
    )


def test_what_cannot_be_done_is_refused_with_the_reason(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("%pool_start --size 1;")

    def refusal(kind: str, **given: Any) -> str:
        reply = window.order(kind, **given)
        assert reply["status"] == "error"
        return str(reply["evalue"])

    assert "no worker 99" in refusal("restart", worker=99)
    assert "no pool is named 'other'" in refusal("drain", pool="other")
    assert "no session 'bob'" in refusal("end_session", session="bob")
    assert "there already" in refusal("start")
    assert "only the magics' own pool, 'default'" in refusal("start", pool="other")
    assert "no such order: 'dance'; there are resize, drain" in refusal("dance")
    assert "'resize' needs 'size', a number, not 'many'" in refusal("resize", size="many")
    assert "size" in refusal("resize", size=0)
    reply = window.ask("pool_command", v=VERSION, pool="default")
    assert "needs 'pool' and 'command'" in reply["evalue"]


def test_another_version_is_told_apart(window: Window) -> None:
    reply = window.ask("pool_command", v=VERSION + 1, pool="default", command={"type": "drain"})
    assert f"the panel speaks version {VERSION + 1}" in reply["evalue"]
    assert "install the same jupyter-pool for both" in reply["evalue"]


def test_a_pool_that_cannot_start_is_a_notice(fresh_notebook: Notebook, window: Window) -> None:
    window.hello()
    fresh_notebook.ok("%config KernelPool.kernel_name = 'no-such-kernel'")
    assert window.order("start")["status"] == "ok"
    notice = window.until(lambda m: m["msg_type"] == "pool_notice")["content"]
    assert notice.keys() == EXAMPLE["pool_notice"].keys()
    assert "no-such-kernel" in notice["text"]


def test_with_no_pool_and_no_panel_nothing_is_sent_and_no_thread_runs(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("1 + 1")
    assert window.said() == []
    threads = fresh_notebook.ok("import threading; [t.name for t in threading.enumerate()]").text
    assert "jupyter_pool" not in threads


def test_without_a_panel_only_the_names_of_pools_are_told(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("%pool_start --size 1;")
    fresh_notebook.ok("%%pool_exec\n1")
    fresh_notebook.ok("%pool_stop")
    said = window.said()
    assert kinds(said) == ["pool_list", "pool_list"]
    assert [message["content"]["pools"] for message in said] == [["default"], []]
    assert (
        "jupyter_pool monitor"
        not in fresh_notebook.ok("import threading; [t.name for t in threading.enumerate()]").text
    )


def test_a_page_that_is_loaded_anew_is_told_everything_without_asking(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("%pool_start --size 1;")
    fresh_notebook.ok("%%pool_exec\n6 * 7")
    window.hello()
    window.state(lambda state: state["full"])
    later = Window(fresh_notebook)
    try:
        names = later.until(lambda m: m["msg_type"] == "pool_list")["content"]
        assert names == {"v": VERSION, "pools": ["default"]}
        state = later.state(lambda state: state["full"])
        assert [block["code"] for block in state["blocks"]] == ["6 * 7"]
    finally:
        later.close()


def test_two_windows_see_the_same(fresh_notebook: Notebook, window: Window) -> None:
    other = Window(fresh_notebook)
    try:
        fresh_notebook.ok("%pool_start --size 1;")
        window.hello()
        other.hello()
        assert other.order("resize", size=2)["status"] == "ok"

        def grown(state: dict[str, Any]) -> bool:
            return bool(state["size"] == 2 and state["counts"] == {"idle": 2})

        one, two = window.state(grown), other.state(grown)
        assert one["workers"] == two["workers"]
        assert one["seq"] == two["seq"]
    finally:
        other.close()


def test_snapshots_are_counted_and_keep_their_distance(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("%pool_start --size 2;")
    window.hello()
    first = window.state(lambda state: state["full"])
    fresh_notebook.send(
        "import time\nfrom jupyter_pool import get_pool\n"
        "list(get_pool().map(lambda n: time.sleep(0.001), range(2000)))"
    )
    states = [window.state(lambda state: True) for _ in range(8)]
    assert [state["seq"] for state in states] == [first["seq"] + n for n in range(1, 9)]
    # Four a second, but for one that is asked for.
    assert states[-1]["now"] - states[0]["now"] > 6 * 0.25


def test_after_a_restart_a_kernel_has_no_pools_and_answers_when_it_is_loaded(
    fresh_notebook: Notebook, window: Window
) -> None:
    fresh_notebook.ok("%pool_start --size 1;")
    window.hello()
    fresh_notebook.manager.restart_kernel(now=True)
    fresh_notebook.client.wait_for_ready(timeout=DEADLINE)
    fresh_notebook.ok("%load_ext jupyter_pool")
    assert window.hello()["pools"] == []


def test_unloading_lets_no_panel_in(fresh_notebook: Notebook, window: Window) -> None:
    fresh_notebook.ok("%pool_start --size 1;")
    window.hello()
    window.state(lambda state: state["full"])
    fresh_notebook.ok("%unload_ext jupyter_pool")
    handlers = "sorted(k for k in get_ipython().kernel.control_handlers if 'pool' in k)"
    assert fresh_notebook.ok(handlers).text == "[]"
    threads = fresh_notebook.ok("import threading; [t.name for t in threading.enumerate()]").text
    assert "jupyter_pool monitor" not in threads
    fresh_notebook.ok("import jupyter_pool\njupyter_pool.get_pool().execute('1')")
    window.said()
    fresh_notebook.ok("jupyter_pool.get_pool().execute('2')")
    assert window.said() == []


def test_messages_have_the_shape_of_the_example(fresh_notebook: Notebook, window: Window) -> None:
    hello = window.hello()
    assert hello.keys() == EXAMPLE["pool_hello_reply"].keys()
    fresh_notebook.ok("%pool_start --size 1;")
    told = window.until(lambda m: m["msg_type"] == "pool_list" and m["content"]["pools"])
    assert told["content"].keys() == EXAMPLE["pool_list"].keys()
    refused = window.order("dance")
    assert refused.keys() == EXAMPLE["pool_command_reply"].keys()
    for command in EXAMPLE["commands"]:
        assert "no such order" not in window.order(pool="other", kind=command["type"]).get(
            "evalue", ""
        ) or command["type"] in ("open", "close")
