"""Messages become the outputs that a notebook would store."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient
from nbformat import v4

from jupyter_pool.outputs import OutputCollector


def stream(text: str, name: str = "stdout") -> tuple[str, dict[str, Any]]:
    return "stream", {"name": name, "text": text}


def display(
    text: str, display_id: str | None = None, kind: str = "display_data"
) -> tuple[str, dict[str, Any]]:
    content: dict[str, Any] = {"data": {"text/plain": text}, "metadata": {}, "transient": {}}
    if display_id:
        content["transient"] = {"display_id": display_id}
    if kind == "execute_result":
        content["execution_count"] = 3
    return kind, content


def update(text: str, display_id: str) -> tuple[str, dict[str, Any]]:
    return display(text, display_id, "update_display_data")


def clear(*, wait: bool = False) -> tuple[str, dict[str, Any]]:
    return "clear_output", {"wait": wait}


def failure(name: str = "KeyError") -> tuple[str, dict[str, Any]]:
    return "error", {"ename": name, "evalue": "'a'", "traceback": ["Traceback", f"{name}: 'a'"]}


def collect(*messages: tuple[str, dict[str, Any]]) -> OutputCollector:
    collector = OutputCollector()
    for message in messages:
        collector.add(*message)
    return collector


def texts(collector: OutputCollector) -> list[str]:
    return [
        output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
        for output in collector.display_outputs
    ]


def test_outputs_keep_arrival_order_and_are_valid_in_a_notebook() -> None:
    collector = collect(
        stream("a\n"),
        stream("b\n", "stderr"),
        display("shown", "id"),
        display("4", kind="execute_result"),
        failure(),
    )
    outputs = collector.display_outputs
    assert outputs == [
        {"output_type": "stream", "name": "stdout", "text": "a\n"},
        {"output_type": "stream", "name": "stderr", "text": "b\n"},
        {"output_type": "display_data", "data": {"text/plain": "shown"}, "metadata": {}},
        {
            "output_type": "execute_result",
            "data": {"text/plain": "4"},
            "metadata": {},
            "execution_count": 3,
        },
        {
            "output_type": "error",
            "ename": "KeyError",
            "evalue": "'a'",
            "traceback": ["Traceback", "KeyError: 'a'"],
        },
    ]
    cell = v4.new_code_cell(outputs=nbformat.from_dict(outputs))
    nbformat.validate(v4.new_notebook(cells=[cell]))


def test_adjacent_texts_of_one_stream_are_one_output() -> None:
    collector = collect(stream("a"), stream("b"), stream("!", "stderr"), stream("c"))
    assert texts(collector) == ["ab", "!", "c"]


def test_carriage_returns_are_kept() -> None:
    assert texts(collect(stream("10%\r"), stream("20%\r"))) == ["10%\r20%\r"]


def test_a_great_many_small_prints_are_joined_in_linear_time() -> None:
    collector = OutputCollector()
    for number in range(300_000):  # quadratic would copy terabytes, and meet the test's timeout
        collector.add("stream", {"name": "stdout", "text": f"line {number}\n"})
    (output,) = collector.display_outputs
    assert output["text"].count("\n") == 300_000
    collector.add(*stream("end"))
    assert collector.display_outputs[0]["text"].endswith("line 299999\nend")


def test_clear_removes_at_once_and_with_wait_at_the_next_output() -> None:
    assert texts(collect(stream("a"), clear())) == []
    collector = collect(stream("a"), clear(wait=True))
    assert texts(collector) == ["a"]
    collector.add(*update("no output of its own", "id"))
    assert texts(collector) == ["a"]
    collector.add(*stream("b"))
    assert texts(collector) == ["b"]
    collector.add(*stream("c"))
    assert texts(collector) == ["bc"]


def test_update_changes_every_output_of_its_display_id() -> None:
    collector = collect(
        display("old", "x"),
        display("other", "y"),
        display("old", "x", kind="execute_result"),
        update("new", "x"),
    )
    assert texts(collector) == ["new", "other", "new"]


def test_showing_a_display_anew_updates_where_it_was_shown_before() -> None:
    assert texts(collect(display("old", "x"), display("new", "x"))) == ["new", "new"]


def test_update_of_a_cleared_or_unknown_display_stores_nothing_but_is_reported() -> None:
    collector = collect(display("old", "x"), clear())
    event = collector.add(*update("new", "x"))
    assert event == {
        "output_type": "update_display_data",
        "data": {"text/plain": "new"},
        "metadata": {},
        "transient": {"display_id": "x"},
    }
    assert collector.add(*update("new", "never shown")) is not None
    assert collector.display_outputs == []


def test_outputs_handed_out_do_not_change_later() -> None:
    collector = collect(display("old", "x"), stream("a"))
    before = collector.display_outputs
    collector.add(*stream("b"))
    collector.add(*update("new", "x"))
    assert [before[0]["data"]["text/plain"], before[1]["text"]] == ["old", "a"]
    assert texts(collector) == ["new", "ab"]


def test_events_say_what_happened_and_are_the_receivers_own() -> None:
    collector = OutputCollector()
    assert collector.add(*stream("a")) == {
        "output_type": "stream",
        "name": "stdout",
        "text": "a",
    }
    event = collector.add(*display("shown", "x"))
    assert event == {
        "output_type": "display_data",
        "data": {"text/plain": "shown"},
        "metadata": {},
        "transient": {"display_id": "x"},
    }
    event["data"].clear()
    event = collector.add(*display("4", kind="execute_result"))
    assert event is not None
    assert event["execution_count"] == 3
    event = collector.add(*failure())
    assert event is not None
    event["traceback"].clear()
    assert collector.add(*clear(wait=True)) == {"output_type": "clear_output", "wait": True}
    assert collector.display_outputs[1]["data"] == {"text/plain": "shown"}
    assert collector.display_outputs[3]["traceback"] == ["Traceback", "KeyError: 'a'"]


@pytest.mark.parametrize("msg_type", ["status", "execute_input", "comm_msg", "made_up"])
def test_other_messages_are_no_output(msg_type: str) -> None:
    collector = collect(stream("a"), clear(wait=True))
    assert collector.add(msg_type, {"execution_state": "busy"}) is None
    assert texts(collector) == ["a"]


def test_fields_that_kernels_leave_out_or_null_are_taken_as_empty() -> None:
    collector = collect(
        ("display_data", {"data": None, "transient": None}),
        ("execute_result", {"data": {"text/plain": "1"}}),
        ("error", {"ename": "E", "evalue": "v", "traceback": None}),
        ("clear_output", {}),
        ("error", {}),
    )
    assert collector.display_outputs == [
        {"output_type": "error", "ename": "", "evalue": "", "traceback": []}
    ]


ids = st.sampled_from(["x", "y"])
words = st.text("ab\r\n", min_size=1, max_size=3)
messages = st.one_of(
    st.builds(stream, words, st.sampled_from(["stdout", "stderr"])),
    st.builds(display, words, st.none() | ids, st.sampled_from(["display_data", "execute_result"])),
    st.builds(update, words, ids),
    st.builds(lambda wait: clear(wait=wait), st.booleans()),
    st.builds(failure, words),
    st.just(("status", {"execution_state": "busy"})),
)


def by_nbclient(sent: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What nbclient stores for the same messages, with adjacent stream texts joined."""
    cell = v4.new_code_cell()
    client = NotebookClient(
        v4.new_notebook(cells=[cell]), coalesce_streams=False, record_timing=False
    )
    client.reset_execution_trackers()
    client.clear_before_next_output = False  # as it does before each cell
    for msg_type, content in sent:
        header = {"msg_type": msg_type}
        message = {"msg_type": msg_type, "header": header, "parent_header": {}, "content": content}
        client.process_message(message, cell, 0)
    outputs: list[dict[str, Any]] = []
    for output in cell.outputs:
        last = outputs[-1] if outputs else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last["text"] += output.text
        else:
            outputs.append(dict(output))
    return outputs


@given(st.lists(messages, max_size=12))
def test_any_messages_give_what_nbclient_stores(sent: list[tuple[str, dict[str, Any]]]) -> None:
    assert collect(*sent).display_outputs == by_nbclient(sent)
