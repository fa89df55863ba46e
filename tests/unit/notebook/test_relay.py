"""How events of a worker become outputs of the cell (the rest is seen in a real notebook)."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from jupyter_pool.notebook.pace import Pace
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


# -- the pace of a flood ------------------------------------------------------------------------


class Clock:
    """Time that passes only while one sleeps; remembers when each message was shown."""

    def __init__(self) -> None:
        self.now = 100.0
        self.shown: list[tuple[float, int]] = []
        self.pace = Pace(lambda: self.now, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def show(self, text: int) -> None:
        self.pace.wait(text)
        self.shown.append((self.now, text))

    def most_within(self, seconds: float) -> tuple[int, int]:
        """The most messages, and the most text, in any stretch of so many seconds."""
        messages = text = 0
        for start, _ in self.shown:
            inside = [size for when, size in self.shown if start <= when < start + seconds]
            messages, text = max(messages, len(inside)), max(text, sum(inside))
        return messages, text


def test_what_a_server_lets_through_is_shown_without_a_pause() -> None:
    clock = Clock()
    for _ in range(2_000):
        clock.show(0)
    for _ in range(10):
        clock.show(200_000)
    assert clock.now == 100.0


def test_a_flood_of_displays_stays_below_a_servers_message_rate() -> None:
    clock = Clock()
    for _ in range(7_000):
        clock.show(0)
    times = [when for when, _ in clock.shown]
    for first, last in zip(times, times[3_000:], strict=False):
        assert last - first >= 3
    assert clock.now - 100 < 10


def test_a_flood_of_text_stays_below_a_servers_data_rate() -> None:
    clock = Clock()
    for _ in range(100):
        clock.show(200_000)
    assert clock.most_within(3)[1] <= 3_000_000
    assert clock.now - 100 < 30


def test_one_text_above_the_limit_does_not_wait_for_ever() -> None:
    clock = Clock()
    clock.show(10_000_000)
    clock.show(0)
    assert clock.now < 110


def test_whoever_interrupts_need_not_wait_for_the_rest_of_a_flood() -> None:
    clock = Clock()
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        for _ in range(100):
            clock.show(200_000)
    assert clock.now == 100.0


def test_after_an_interrupt_the_end_is_shown_of_what_would_have_to_wait(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    relay = Relay(shell)
    relay._pace = clock.pace
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        for number in range(4_000):
            relay({"output_type": "stream", "name": "stdout", "text": f"{number}\n"})
        relay.show_last()
    captured = capsys.readouterr()
    numbers = [int(line) for line in captured.out.splitlines()]
    assert numbers == [*range(numbers.index(3_980)), *range(3_980, 4_000)]
    missing = 4_000 - len(numbers)
    assert captured.err == f"[… interrupted: {missing} outputs are not shown …]\n"
    assert clock.now == 100.0


def test_a_long_text_is_shown_whole_in_parts(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "".join(f"{number}\n" for number in range(100_000))
    relay = Relay(shell)
    relay._pace = Pace(sleep=lambda seconds: None)
    relay({"output_type": "stream", "name": "stdout", "text": text})
    assert capsys.readouterr().out == text
