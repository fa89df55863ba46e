"""Results and reports: what they hold, and how they show it in text and HTML."""

from __future__ import annotations

import base64
import dataclasses
import pickle
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from jupyter_pool.errors import ExecutionError, InvalidRequest, OperationTimeout, WorkerDied
from jupyter_pool.results import (
    Distribution,
    ExecutionResult,
    HealthReport,
    LazyOutputs,
    PoolStats,
    PoolStatus,
    ProgramResult,
    SessionInfo,
    Timings,
    WaitInfo,
    WorkerInfo,
    WorkerVerdict,
)
from jupyter_pool.serialize import pack

PNG = base64.encodebytes(b"\x89PNG" + bytes(100)).decode()
VOID = {"br", "img", "hr"}


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def display(**data: Any) -> dict[str, Any]:
    mimes = {name.replace("_", "/", 1).replace("_", "+"): value for name, value in data.items()}
    return {"output_type": "display_data", "data": mimes, "metadata": {}}


def value(text: str) -> dict[str, Any]:
    data = {"text/plain": text}
    return {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": 1}


def failure() -> dict[str, Any]:
    lines = ["\x1b[31m------\x1b[39m", "\x1b[31mKeyError\x1b[39m: '<a>'"]
    return {"output_type": "error", "ename": "KeyError", "evalue": "'<a>'", "traceback": lines}


def result(*outputs: dict[str, Any], **fields: Any) -> ExecutionResult:
    fields = {"status": "ok", "request_id": "r-1", **fields}
    return ExecutionResult(display_outputs=list(outputs), **fields)


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps text, tags and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.styles: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(attrs)
        if "pre" not in self._open:  # in there are the colours that outputs ask for
            self.styles.append(dict(attrs).get("style") or "")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# --- ExecutionResult ----------------------------------------------------------------------------


def test_streams_and_value_are_found_among_the_outputs() -> None:
    shown = result(stream("a\r"), stream("!", "stderr"), value("1"), stream("b"), value("2"))
    assert shown.stdout == "a\rb"
    assert shown.stderr == "!"
    assert shown.data == {"text/plain": "2"}
    assert result().data == {}


def test_results_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        result().status = "error"  # type: ignore[misc]


def test_text_is_what_a_terminal_would_show() -> None:
    shown = result(
        stream("\x1b[1mbold\x1b[0m\nno newline"),
        value("42"),
        stream("warned\n", "stderr"),
        display(text_html="<b>x</b>", text_plain="x"),
        display(image_png=PNG),
        failure(),
    )
    lines = ["bold", "no newline", "42", "warned", "x", "<image/png>", "------", "KeyError: '<a>'"]
    assert shown.to_text().split("\n") == lines


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("10%\r20%\rdone\n", "done"),
        ("longer\rab", "abnger"),
        ("one\r\ntwo\r\n", "one\ntwo"),
        ("ab\b\bx", "xb"),
        ("\b\bstart\rx\by", "ytart"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b[2Kagain\x1b[1;31m!\x1b(B", "again!"),
    ],
)
def test_text_follows_carriage_returns_backspaces_and_escapes(printed: str, shown: str) -> None:
    assert result(stream(printed)).to_text() == shown


def test_an_error_that_no_output_shows_ends_the_text() -> None:
    late = OperationTimeout("stopped after 2 s")
    shown = result(stream("so far\n"), status="timeout", error=late)
    assert shown.to_text() == "so far\nOperationTimeout: stopped after 2 s"
    assert "OperationTimeout: stopped" in Page(shown._repr_html_()).text
    raised = result(failure(), status="error", error=ExecutionError("KeyError: '<a>'"))
    assert raised.to_text().count("KeyError") == 1
    died = result(failure(), status="died", error=WorkerDied("worker 2 died"))
    assert died.to_text().endswith("WorkerDied: worker 2 died")


@pytest.mark.parametrize("max_chars", [0, 5, 60, 100, 8000])
def test_long_text_is_cut_in_the_middle(max_chars: int) -> None:
    text = "".join(f"{number:05}\n" for number in range(20_000))
    cut = result(stream(text)).to_text(max_chars=max_chars)
    assert len(cut) <= max_chars
    if max_chars >= 100:
        head, marker, tail = cut.partition("\n[... ")
        count, _, tail = tail.partition(" characters left out ...]\n")
        assert text.startswith(head)
        assert text.rstrip().endswith(tail)
        assert int(count.replace(",", "")) + len(head) + len(tail) == len(text) - 1
        assert abs(len(head) - len(tail)) <= 1


def test_text_is_whole_by_none_and_below_the_limit() -> None:
    text = "x" * 9000
    assert result(stream(text)).to_text(max_chars=None) == text
    assert result(stream(text)).to_text(max_chars=9000) == text
    with pytest.raises(InvalidRequest, match="max_chars"):
        result().to_text(max_chars=-1)


def test_html_shows_every_output_escaped() -> None:
    page = Page(
        result(
            stream("1 < 2 & <script>\n"),
            stream("careful\n", "stderr"),
            display(text_html="<b>rich</b>", text_plain="plain"),
            display(text_latex="$a<b$"),
            display(application_json={"a": ["<"]}),
            value("<object at 0x1>"),
            failure(),
        )._repr_html_()
    )
    for text in ["1 < 2 & <script>", "careful", "rich", "$a<b$", '"<"', "<object at 0x1>", "'<a>'"]:
        assert text in page.text
    assert "script" not in page.tags
    assert "b" in page.tags
    assert "plain" not in page.text
    assert "\x1b" not in page.text


def test_html_has_images_as_data() -> None:
    output = display(image_png=PNG, text_plain='<Figure "1">')
    output["metadata"] = {"image/png": {"width": 300, "height": 20.0}}
    page = Page(result(output)._repr_html_())
    assert page.attributes["src"] == f"data:image/png;base64,{PNG.replace(chr(10), '')}"
    assert page.attributes["alt"] == '<Figure "1">'
    assert (page.attributes["width"], page.attributes["height"]) == ("300", "20")
    page = Page(result(display(image_svg_xml="<svg><script/></svg>"))._repr_html_())
    encoded = (page.attributes["src"] or "").removeprefix("data:image/svg+xml;base64,")
    assert base64.b64decode(encoded) == b"<svg><script/></svg>"
    assert "script" not in page.tags


def test_notebook_gets_text_and_html_without_unpickling_or_times() -> None:
    outputs = LazyOutputs(["y", "z"], pack({"y": 1, "z": 2}))
    shown = result(
        stream("hello\n"), outputs=outputs, timings=Timings(0.1, 12.3, 12.4), worker_id=7
    )
    data, metadata = DisplayFormatter().format(shown)
    assert data["text/plain"] == "hello\noutputs: y, z"
    assert "hello" in Page(data["text/html"]).text
    assert "outputs: y, z" in Page(data["text/html"]).text
    assert "12.3" not in data["text/html"]
    assert "not loaded" in repr(outputs)
    data, metadata = DisplayFormatter().format(result())
    assert data["text/plain"] == Page(data["text/html"]).text == "ok, no output"


def test_result_repr_is_one_line_without_content() -> None:
    shown = result(stream("x" * 100), outputs=LazyOutputs(["y"], ()), worker_id=2, session_id="s1")
    assert repr(shown) == (
        "<ExecutionResult ok, request r-1, worker 2, session s1, 1 displayed, outputs: y>"
    )


def test_result_travels_with_outputs_unpickled_only_there() -> None:
    outputs = LazyOutputs(["f"], pack({"f": eval("lambda x: x + 1", {})}))
    sent = result(stream("a"), outputs=outputs, timings=Timings(0.1, 0.2, 0.3), execution_count=4)
    arrived = pickle.loads(pickle.dumps(sent))
    assert "not loaded" in repr(outputs)
    assert arrived.outputs["f"](1) == 2
    for name in ("status", "request_id", "display_outputs", "timings", "execution_count"):
        assert getattr(arrived, name) == getattr(sent, name)


def test_program_result_holds_its_outputs() -> None:
    answer = ProgramResult("qa", {"answer": 42}, "r-1", worker_id=1)
    assert answer.outputs["answer"] == 42
    assert answer.program_id == "qa"
    assert repr(answer) == "<ProgramResult qa, ok, worker 1, outputs: answer>"


def test_wait_info_is_plain() -> None:
    info = WaitInfo("queued", elapsed=1.5, busy=4, ahead=2)
    assert (info.state, info.busy, info.ahead, info.starting) == ("queued", 4, 2, 0)


# --- reports ------------------------------------------------------------------------------------


def a_worker(number: int, **fields: Any) -> WorkerInfo:
    now = time.time()
    fields = {"state": "busy", "since": now - 3, "started_at": now - 200, **fields}
    return WorkerInfo(number, 1000 + number, **fields)


REPORTS = [
    a_worker(1, request_id="<r-1>", session_id="s1", memory=54_000_000, served=5),
    WorkerInfo(2, None, "starting"),
    SessionInfo("s<1>", time.time() - 100, time.time() - 5, requests=3, failures=1, busy_time=0.5),
    PoolStats("default"),
    PoolStats(
        "default",
        uptime=300.0,
        workers={"busy": 1, "idle": 3},
        requests={"ok": 5, "error": 1},
        waits=Distribution.of([0.001, 0.2]),
        workers_lost={"SIGSEGV": 1},
    ),
    PoolStatus("default", "new"),
    PoolStatus("default", "running", {"size": 4}, (a_worker(1), a_worker(12, state="idle")), 2),
    PoolStatus("default", "degraded", reason="<no kernel>"),
    HealthReport("healthy"),
    HealthReport("degraded", ("worker 2 is slow",), (WorkerVerdict(2, "degraded", "slow"),)),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: type(report).__name__)
def test_reports_show_in_text_and_html_and_travel(report: Any) -> None:
    page = Page(report._repr_html_())
    title, *lines = repr(report).split("\n")
    assert title in page.text
    assert all(line.startswith("  ") or not line for line in lines)
    assert not any(line.endswith(" ") for line in lines)
    assert pickle.loads(pickle.dumps(report)) == report


@pytest.mark.parametrize("report", [*REPORTS, result(failure(), stream("x", "stderr"))])
def test_html_takes_its_colours_from_the_theme(report: Any) -> None:
    for style in Page(report._repr_html_()).styles:
        assert "background" not in style
        for declaration in filter(None, style.split(";")):
            name, _, spec = declaration.partition(":")
            if "color" in name or "border" in name.replace("border-collapse", ""):
                assert "var(--jp-" in spec


def test_status_is_an_aligned_table_of_workers() -> None:
    workers = (a_worker(1, request_id="r-1", served=3), a_worker(12, state="idle", served=100))
    text = repr(PoolStatus("mine", "running", {"size": 2, "overflow": 1}, workers, 7))
    lines = text.split("\n")
    assert lines[0] == "Pool mine: running"
    assert "  workers          busy: 1, idle: 1" in lines
    assert "  queued           7" in lines
    assert "  size             2" in lines
    header, first, second = lines[-3:]
    end = header.index("worker") + len("worker")
    assert first[:end].endswith(" 1")
    assert second[:end].endswith(" 12")
    assert first.index("r-1") == second.index("–") == header.index("request")
    end = header.index("served") + len("served")
    assert first[:end].endswith("  3")
    assert second[:end].endswith("100")


def test_stats_show_counts_causes_and_durations() -> None:
    text = repr(REPORTS[4])
    assert "workers           busy: 1, idle: 3" in text
    assert "workers lost      SIGSEGV: 1" in text
    assert "uptime            5 m 0 s" in text
    assert text.split("\n")[-1].split() == [
        "waited",
        "2",
        "100",
        "ms",
        *["1", "ms"],
        *["200", "ms"] * 3,
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 µs"),
        (0.00085, "850 µs"),
        (0.0123, "12.3 ms"),
        (0.99999, "1.00 s"),
        (4.567, "4.57 s"),
        (200, "3 m 20 s"),
        (59.99, "60 s"),
        (7_260, "2 h 1 m"),
        (100_000, "1 d 3 h"),
    ],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    text = repr(PoolStats("x", uptime=seconds))
    assert f"uptime            {shown}\n" in text


@pytest.mark.parametrize(
    ("memory", "shown"),
    [(512, "512 B"), (54_000_000, "54 MB"), (1_234_000_000, "1.23 GB"), (None, "–")],
)
def test_sizes_read_well(memory: int | None, shown: str) -> None:
    line = next(line for line in repr(a_worker(1, memory=memory)).split("\n") if "memory" in line)
    assert line.split(maxsplit=1)[1] == shown


def test_distribution_of_durations() -> None:
    spread = Distribution.of(range(100, 0, -1))
    assert spread == Distribution(count=100, mean=50.5, p50=50, p95=95, p99=99, max=100)
    assert Distribution.of([2.0]) == Distribution(1, 2.0, 2.0, 2.0, 2.0, 2.0)
    assert Distribution.of([]) == Distribution()


def test_health_report_gives_reasons() -> None:
    report = HealthReport("unhealthy", ("no worker starts",), (WorkerVerdict(1, "unhealthy"),))
    assert repr(report).startswith("Health: unhealthy; no worker starts\n")
