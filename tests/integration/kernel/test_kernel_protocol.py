"""A worker is a Jupyter kernel for any client, and leans on what it leans on."""

from __future__ import annotations

import inspect
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import ipykernel.kernelapp
import ipykernel.kernelbase
import IPython
import pytest
from integration.kernel.kernel_client import Worker, start_worker
from ipykernel.iostream import IOPubThread, OutStream
from ipykernel.zmqshell import ZMQInteractiveShell
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.session import Session
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_pool.provisioning.templates import Templates

IPYTHON_9 = IPython.version_info >= (9,)


def ask(worker: Worker, kind: str, **content: Any) -> dict[str, Any]:
    request = worker.send(worker.shell, kind, content)
    reply = worker.receive(worker.shell, request)
    messages = worker.drain(request)
    assert messages[0]["content"]["execution_state"] == "busy"
    assert reply["content"]["status"] == "ok"
    return reply["content"]  # type: ignore[no-any-return]


def test_kernel_info_promises_neither_debugger_nor_subshells(worker: Worker) -> None:
    content = worker.ready["content"]
    assert content["implementation"] == "ipython"
    assert content["language_info"]["name"] == "python"
    assert content["protocol_version"].startswith("5.")
    assert content["supported_features"] == []


def test_complete_inspect_and_is_complete(worker: Worker) -> None:
    assert "print" in ask(worker, "complete_request", code="prin", cursor_pos=4)["matches"]
    found = ask(worker, "inspect_request", code="print", cursor_pos=5, detail_level=0)
    assert found["found"]
    request = worker.send(worker.shell, "is_complete_request", {"code": "for i in x:"})
    assert worker.receive(worker.shell, request)["content"]["status"] == "incomplete"
    worker.drain(request)


def test_history_and_comm_info_answer(worker: Worker) -> None:
    assert ask(worker, "comm_info_request")["comms"] == {}
    history = ask(worker, "history_request", hist_access_type="tail", n=5, raw=True, output=False)
    assert history["history"] == []


def test_a_comm_opened_by_a_cell_is_heard(worker: Worker) -> None:
    answer = worker.run("from comm import create_comm\nc = create_comm(target_name='t', data=1)")
    assert "comm_open" in answer.types
    assert ask(worker, "comm_info_request")["comms"] == {}


def test_a_plain_clients_requests_share_their_state_until_a_pool_request(
    fresh_worker: Worker,
) -> None:
    fresh_worker.run("x = 5\nimport decimal\ndecimal.getcontext().prec = 5", plain=True)
    answer = fresh_worker.run("x + 1, decimal.getcontext().prec", plain=True)
    assert answer.result == "(6, 5)"
    assert answer.content["execution_count"] == 2
    assert "jupyter_pool" not in answer.reply["metadata"]
    fresh_worker.run("1")
    assert fresh_worker.run("x", plain=True).content["ename"] == "NameError"


def test_a_plain_clients_queue_is_aborted_by_an_error(worker: Worker) -> None:
    # It fails when the second one has reached the kernel, which reads none while a cell runs.
    first = worker.submit(
        "socket = get_ipython().kernel.shell_stream.socket\nwhile not socket.poll(10): pass\n1/0",
        plain=True,
    )
    second = worker.submit("print('never')", plain=True)
    third = worker.submit("1 + 1")
    assert worker.finish(first).content["ename"] == "ZeroDivisionError"
    assert worker.finish(second).content["status"] == "aborted"
    assert worker.finish(third).result == "2"


def test_stdin_is_asked_when_the_client_allows_it(worker: Worker) -> None:
    request = worker.submit("x = input('name? ')\nx", plain=True, allow_stdin=True)
    question = worker.receive(worker.stdin, request)
    assert question["content"] == {"prompt": "name? ", "password": False}
    worker.session.send(worker.stdin, "input_reply", {"value": "me"}, parent=question)
    assert worker.finish(request).result == "'me'"


def test_silent_requests_are_silent(worker: Worker) -> None:
    answer = worker.run("1 + 1", plain=True, silent=True)
    assert answer.types == ["busy", "idle"]


def test_unsigned_and_repeated_messages_are_not_obeyed(worker: Worker) -> None:
    message = worker.session.msg("execute_request", {"code": "print('never')"})
    stranger = Session(key=b"wrong")
    stranger.send(worker.shell, message)
    frames = worker.session.serialize(
        worker.session.msg("execute_request", {"code": "print('once')", "silent": False})
    )
    for _ in range(2):
        worker.shell.send_multipart(frames)
    request = worker.submit("1")
    heard = worker.listen_until_idle(request)
    texts = [m["content"]["text"] for m in heard if m["msg_type"] == "stream"]
    assert "".join(texts) == "once\n"
    assert worker.receive(worker.shell, request)["content"]["status"] == "ok"


async def test_the_stock_client_is_served(fresh_worker: Worker) -> None:
    client = AsyncKernelClient()
    client.load_connection_info(fresh_worker.manager.get_connection_info())
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=20)
        heard: list[dict[str, Any]] = []
        reply = await client.execute_interactive(
            "print('hi')\n41 + 1", output_hook=heard.append, timeout=20
        )
        assert reply["content"]["status"] == "ok"
        # Each once in a row: what a print writes may leave in several messages.
        types = [kind for kind, _ in groupby(message["msg_type"] for message in heard)]
        assert types == ["status", "execute_input", "stream", "execute_result", "status"]
    finally:
        client.stop_channels()


def test_shutdown_by_message_ends_the_process(fresh_worker: Worker) -> None:
    request = fresh_worker.send(fresh_worker.control, "shutdown_request", {"restart": False})
    reply = fresh_worker.receive(fresh_worker.control, request)
    assert reply["content"]["status"] == "ok"
    assert fresh_worker.wait_dead() == 0
    assert fresh_worker.real_stderr == ""


def test_what_is_to_be_done_at_the_end_of_a_process_is_done(
    fresh_worker: Worker, tmp_path: Path
) -> None:
    fresh_worker.run(
        "import atexit, sys, threading, time\n"
        "from pathlib import Path\n"
        f"atexit.register(Path({str(tmp_path / 'atexit')!r}).write_text, 'done')\n"
        f"sys.kept = open({str(tmp_path / 'file')!r}, 'w')\n"
        "sys.kept.write('done')\n"
        "class Last:\n"
        "    def __init__(self): self.itself = self\n"
        f"    def __del__(self, write=Path({str(tmp_path / 'del')!r}).write_text): write('done')\n"
        "last = Last()",
        plain=True,
    )
    fresh_worker.send(fresh_worker.control, "shutdown_request", {"restart": False})
    assert fresh_worker.wait_dead() == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ["atexit", "file", "del"], "done"
    )


def test_a_plain_clients_exit_ends_the_process(fresh_worker: Worker) -> None:
    fresh_worker.run("exit()", plain=True)
    assert fresh_worker.wait_dead() == 0


# -- leanness -----------------------------------------------------------------------------


def test_a_worker_loads_and_opens_only_what_it_needs(
    fresh_worker: Worker, templates: Templates | None
) -> None:
    answer = fresh_worker.run(
        "import sys, threading, os\n"
        "mods = [m for m in ('debugpy', 'matplotlib', 'numpy', 'ipywidgets',"
        " *late, 'jupyter_pool.pool') if sys.modules.get(m)]\n"
        "threads = sorted(t.name for t in threading.enumerate())\n"
        "history = get_ipython().history_manager.enabled\n"
        "backend = os.environ['MPLBACKEND']\n"
        "has_cwd = '' in sys.path",
        # IPython 8 loads these itself.
        inputs={
            "late": [
                *(["jedi", "psutil"] if IPYTHON_9 else []),
                # A template has it for all its workers.
                *(["cloudpickle"] if templates is None else []),
            ]
        },
        outputs=["mods", "threads", "history", "backend", "has_cwd"],
    )
    values = answer.values
    assert values["mods"] == []
    # Only a worker that is its owner's child watches for it to end.
    assert len(values["threads"]) <= (5 if templates is None else 4), values["threads"]
    assert not any("subshell" in name.lower() for name in values["threads"])
    assert values["history"] is False
    assert values["backend"] == "module://matplotlib_inline.backend_inline"
    assert values["has_cwd"] is True


def test_a_module_in_the_working_folder_does_not_shadow_the_kernels_own(
    worker_folder: Path, templates: Templates | None
) -> None:
    (worker_folder / "random.py").write_text("raise RuntimeError('shadowed')")
    (worker_folder / "typing.py").write_text("raise RuntimeError('shadowed')")
    with start_worker(worker_folder, templates=templates) as worker:
        assert worker.run("1").result == "1"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="platform: Linux only")
def test_no_tcp_port_is_opened(worker: Worker) -> None:
    answer = worker.run(
        "import psutil, os\n"
        "[c for c in psutil.Process().net_connections('tcp') if c.status == 'LISTEN']"
    )
    assert answer.result == "[]"


def test_a_worker_serves_a_thousand_requests_without_growing(worker: Worker) -> None:
    measure = "import os\nr = len(os.listdir('/proc/self/fd')), len(__import__('linecache').cache)"
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("platform: no /proc")
    before = worker.run(measure, outputs=["r"]).values["r"]
    for number in range(300):
        worker.run(f"x = {number}\nx")
    after = worker.run(measure, outputs=["r"]).values["r"]
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 2


# -- what we lean on ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            ipykernel.kernelapp.IPKernelApp,
            (
                "init_crash_handler patch_io init_signal init_control init_iopub init_kernel"
                " _bind_socket _apply_curve_server_options configure_tornado_logger"
            ),
        ),
        (
            ipykernel.kernelbase.Kernel,
            (
                "shell_main dispatch_control set_parent _publish_status _publish_execute_input"
                " _abort_queues _send_abort_reply init_metadata finish_metadata"
            ),
        ),
        (
            IOPubThread,
            "send_multipart _setup_xpub_listener _handle_subscription close",
        ),
        (OutStream, "_setup_stream_redirects _hooks set_parent parent_header flush write"),
        (
            ZMQInteractiveShell,
            (
                "_get_exc_info _showtraceback showtraceback ask_exit run_cell_async transform_cell"
                " should_run_async debugger user_expressions"
            ),
        ),
        (Session, "serialize deserialize sign _add_digest _cull_digest_history feed_identities"),
        (ZMQStream, "_update_handler send_multipart flush"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_internals_we_override_or_call_are_still_there(owner: type, names: str) -> None:
    missing = [name for name in names.split() if not hasattr(owner, name)]
    assert not missing, f"{owner.__module__}.{owner.__name__} has moved: {missing}"


def test_run_cell_async_takes_what_we_pass() -> None:
    parameters = inspect.signature(ZMQInteractiveShell.run_cell_async).parameters
    assert {
        "store_history",
        "silent",
        "transformed_cell",
        "preprocessing_exc_tuple",
        "cell_id",
    } <= set(parameters)


def test_the_baseline_finds_ipythons_private_parts(worker: Worker) -> None:
    answer = worker.run(
        "ip = get_ipython()\nimport codeop\n"
        "[hasattr(ip.compile, '_filename_map'), hasattr(ip, '_main_mod_cache'),\n"
        " hasattr(ip.builtin_trap, '_nested_level'), hasattr(ip.display_trap, '_nested_level'),\n"
        " all(hasattr(ip.history_manager, n) for n in ('_i', '_ii', '_iii', '_i00', *newer,\n"
        "     'output_hist', 'output_hist_reprs', 'db_input_cache'))]",
        inputs={"newer": ["outputs", "exceptions"] if IPYTHON_9 else []},
    )
    assert answer.result == "[True, True, True, True, True]"
