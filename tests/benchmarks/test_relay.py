"""What the relay costs: a cell of `%%pool_exec` against the same cell run by the notebook's own kernel.

pytest tests/benchmarks -s
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
from integration.notebook.front_end import Notebook

from jupyter_pool.bench.paired import measure
from jupyter_pool.bench.tables import as_text

#: How much later a display may arrive than one of the notebook's own kernel, in seconds.
DISPLAY_AT_MOST = 0.002


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    notebook = Notebook()
    try:
        notebook.ok("%load_ext jupyter_pool")
        notebook.ok("%pool_start --size 1;")
        yield notebook
    finally:
        notebook.close()


@pytest.mark.timeout(300)
def test_printing_ten_thousand_lines(notebook: Notebook) -> None:
    code = "for i in range(10_000): print(i)"
    text = "".join(f"{i}\n" for i in range(10_000))

    def timed(cell: str) -> float:
        begun = time.perf_counter()
        run = notebook.ok(cell)
        took = time.perf_counter() - begun
        assert run.stream("stdout") == text
        return took

    def ours() -> float:
        return timed(f"%%pool_exec\n{code}")

    def theirs() -> float:
        return timed(code)

    for side in (ours, theirs):
        side()
    figure = measure(code, ours, "the notebook's kernel", theirs, rounds=15, at_most=1.5)
    print("\n" + as_text([figure]))
    assert figure.is_met


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("what", "send"),
    [
        ("a display", "display(time.time())"),
        ("a widget's update", "label.value = str(time.time())"),
    ],
)
def test_the_way_of_one_message(notebook: Notebook, what: str, send: str) -> None:
    # Both clocks are this machine's; the messages are apart, so that none waits for another.
    code = (
        "import time\nimport ipywidgets\nlabel = ipywidgets.Label()\n"
        f"for _ in range(40):\n    {send}\n    time.sleep(0.02)"
    )

    def ways(cell: str) -> list[float]:
        arrived: list[float] = []

        def note(message: dict[str, object]) -> None:
            content = message["content"]
            assert isinstance(content, dict)
            if message["msg_type"] == "display_data":
                sent = content["data"]["text/plain"]
            elif message["msg_type"] == "comm_msg":
                sent = content["data"]["state"]["value"]
            else:
                return
            arrived.append(time.time() - float(sent))

        run = notebook.result(notebook.send(cell), until=note)
        assert run.status == "ok"
        assert len(arrived) == 40
        return arrived

    relayed: list[float] = []
    own: list[float] = []
    for _ in range(6):
        relayed += ways(f"%%pool_exec\n{code}")
        own += ways(code)
    added = statistics.median(relayed) - statistics.median(own)
    print(
        f"\n{what}: {statistics.median(relayed) * 1e3:.2f} ms relayed, "
        f"{statistics.median(own) * 1e3:.2f} ms by the notebook's kernel, added "
        f"{added * 1e3:.2f} ms (at most {DISPLAY_AT_MOST * 1e3:g})"
    )
    assert added <= DISPLAY_AT_MOST
