"""How events of a worker become outputs of the cell (the rest is seen in a real notebook)."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from jupyter_pool.notebook.relay import Relay, WorkerValue
from jupyter_pool.notebook.waiting import WaitNotice, wait_text
from jupyter_pool.results import ExecutionResult, WaitInfo

RESULT = ExecutionResult("ok", "r1", worker_id=2)


@pytest.fixture
def published(shell: InteractiveShell) -> list[dict[str, Any]]:
    publisher = CapturingDisplayPublisher()
    publisher.outputs = []
    shell.display_pub = publisher
    outputs: list[dict[str, Any]] = publisher.outputs
    return outputs


def display(text: str, **transient: str) -> dict[str, Any]:
    data = {"text/plain": text}
    return {
        "output_type": "display_data",
        "data": data,
        "metadata": {},
        "transient": dict(transient),
    }


def value(text: str) -> dict[str, Any]:
    return {**display(text), "output_type": "execute_result", "execution_count": 1}


def test_a_value_is_returned_and_not_published(
    shell: InteractiveShell, published: list[dict[str, Any]]
) -> None:
    relay = Relay(shell)
    relay(value("42"))
    shown = relay.take_value(RESULT, "default")
    assert isinstance(shown, WorkerValue)
    assert repr(shown) == "42"
    assert shown.result is RESULT
    assert published == []
    data, metadata = shown._repr_mimebundle_()
    assert data == {"text/plain": "42"}
    assert metadata["jupyter_pool"]["worker"] == 2
    assert relay.take_value(RESULT, "default") is None


def test_what_follows_a_value_waits_for_the_end_of_the_cell(
    shell: InteractiveShell, published: list[dict[str, Any]]
) -> None:
    relay = Relay(shell)
    with shell.display_trap:  # as in a cell
        relay(display("before"))
        relay(value("42"))
        relay(display("figure"))
        relay.take_value(RESULT, "default")
        assert [output["data"]["text/plain"] for output in published] == ["before"]
        callbacks = len(shell.events.callbacks["post_execute"])
        shell.events.trigger("post_execute")
        assert [output["data"]["text/plain"] for output in published] == ["before", "figure"]
        assert len(shell.events.callbacks["post_execute"]) == callbacks - 1


def test_what_follows_a_value_is_shown_at_once_outside_a_cell(
    shell: InteractiveShell, published: list[dict[str, Any]]
) -> None:
    relay = Relay(shell)
    relay(value("42"))
    relay(display("figure"))
    relay.take_value(RESULT, "default")
    assert len(published) == 1


def test_an_earlier_value_is_shown_before_the_last(
    shell: InteractiveShell, published: list[dict[str, Any]]
) -> None:
    relay = Relay(shell)
    relay(value("1"))
    relay(display("between"))
    relay(value("2"))
    assert [output["data"]["text/plain"] for output in published] == ["1", "between"]
    assert repr(relay.take_value(RESULT, "default")) == "2"


def test_a_widget_without_its_model_is_shown_by_its_text(
    shell: InteractiveShell, published: list[dict[str, Any]]
) -> None:
    event = display("10%")
    event["data"]["application/vnd.jupyter.widget-view+json"] = {"model_id": "m"}
    Relay(shell)(event)
    assert published[0]["data"] == {"text/plain": "10%"}


def test_quiet_shows_nothing(
    shell: InteractiveShell, published: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    relay = Relay(shell, quiet=True)
    for event in (
        display("x"),
        value("1"),
        {"output_type": "stream", "name": "stdout", "text": "y"},
        {"output_type": "clear_output", "wait": False},
    ):
        relay(event)
    relay.flush()
    assert relay.take_value(RESULT, "default") is None
    assert published == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("info", "first_use", "text"),
    [
        (WaitInfo("starting", 1.0, starting=4), True, "Starting 4 workers (first use)…"),
        (WaitInfo("starting", 1.0, starting=1), False, "Starting 1 worker…"),
        (
            WaitInfo("queued", 1.0, busy=4, ahead=2),
            False,
            "Waiting for a worker: 4 busy, 2 ahead of you.",
        ),
        (
            WaitInfo("queued", 1.0, busy=3, starting=1),
            False,
            "Waiting for a worker: 3 busy, 1 starting, you are next.",
        ),
    ],
)
def test_waiting_is_said_in_one_line(info: WaitInfo, first_use: bool, text: str) -> None:
    assert wait_text(info, first_use=first_use) == text


def test_waiting_is_silent_where_there_is_nobody_to_see_it(
    shell: InteractiveShell,
    published: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    notice = WaitNotice(shell)
    notice(WaitInfo("starting", 1.0, starting=1))
    notice(WaitInfo("running", 2.0))
    notice.clear()
    assert published == []
    assert capsys.readouterr() == ("", "")
