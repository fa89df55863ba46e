"""`input()` and `getpass()` in a pool cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.notebook.front_end import Notebook


def test_they_ask_in_the_notebook_after_what_was_printed(notebook: Notebook) -> None:
    request = notebook.send(
        "%%pool_exec\nimport getpass\nprint('before')\nname = input('name? ')\n"
        "word = getpass.getpass('password? ')\nprint(name, word)",
        allow_stdin=True,
    )
    asked = []
    for answer in ("alice", "secret"):
        message = notebook.client.get_stdin_msg(timeout=60)
        assert message["parent_header"]["msg_id"] == request
        asked.append(message["content"])
        notebook.client.input(answer)
    assert asked == [
        {"prompt": "name? ", "password": False},
        {"prompt": "password? ", "password": True},
    ]
    assert notebook.result(request).stream("stdout") == "before\nalice secret\n"


def test_two_cells_ask_one_after_the_other(notebook: Notebook) -> None:
    requests = [notebook.send("%%pool_exec\ninput('?') * 2", allow_stdin=True) for _ in range(2)]
    for answer in "ab":
        notebook.client.get_stdin_msg(timeout=60)
        notebook.client.input(answer)
    assert [notebook.result(request).text for request in requests] == ["'aa'", "'bb'"]


def test_a_front_end_that_cannot_answer_is_told_at_once(notebook: Notebook) -> None:
    for code in ("input()", "__import__('getpass').getpass()"):
        run = notebook.run(f"%%pool_exec\n{code}", allow_stdin=False)
        assert "StdinNotImplementedError" in run.reply["evalue"]
        assert "nobody can answer it" in run.reply["evalue"]


def test_ctrl_c_at_the_question_ends_the_cell_and_keeps_the_worker(notebook: Notebook) -> None:
    before = notebook.ok("[w.id for w in get_ipython().run_line_magic('pool_status', '').workers]")
    request = notebook.send("%%pool_exec\ninput('?')", allow_stdin=True)
    notebook.client.get_stdin_msg(timeout=60)
    notebook.manager.interrupt_kernel()
    assert notebook.result(request).reply["ename"] == "KeyboardInterrupt"
    after = notebook.ok("[w.id for w in get_ipython().run_line_magic('pool_status', '').workers]")
    assert after.text == before.text
    assert notebook.ok("%%pool_exec\n'well'").text == "'well'"
