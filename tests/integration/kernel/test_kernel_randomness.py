"""A worker's `random` between requests: never foretold, and not seeded anew where nobody used it."""

from __future__ import annotations

import pytest

from .kernel_client import Worker

#: Is left as it is by what it says; looks at it past everything that notices.
STATE = "from jupyter_pool.kernel.randomness import RANDOMNESS as r; r._memory.raw"

#: What tells the first number that the state has in it, and leaves the state as it was.
LOOKS = {
    "getstate and setstate": "state = random.getstate(); x = random.random(); random.setstate(state); x",
    "a state that another generator gets": (
        "other = random.Random(); other.setstate(random.getstate()); other.random()"
    ),
    "a copy": "import copy; copy.copy(random._inst).random()",
    "a deep copy": "import copy; copy.deepcopy(random._inst).random()",
    "a pickle": "import pickle; pickle.loads(pickle.dumps(random._inst)).random()",
    "the class's own method": (
        "other = random.Random(); other.setstate(random.Random.getstate(random._inst)); other.random()"
    ),
}


def test_random_is_not_seeded_anew_where_nobody_has_used_it(worker: Worker) -> None:
    first = worker.run(STATE).result
    assert first is not None
    worker.run("1 + 1")
    assert worker.run(STATE).result == first


@pytest.mark.parametrize(
    "draw", ["random.random()", "random.randbytes(4)", "random.shuffle([1, 2])"]
)
def test_random_is_seeded_anew_after_a_draw(worker: Worker, draw: str) -> None:
    first = worker.run(STATE).result
    worker.run(f"import random; {draw}")
    assert worker.run(STATE).result != first


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_who_looks_at_the_state_of_random_cannot_foretell_the_next_request(
    worker: Worker, look: str
) -> None:
    worker.run("1 + 1")
    foretold = worker.run(f"import random\n{look}").result
    assert foretold is not None
    assert worker.run("import random; random.random()").result not in (None, foretold)


def test_half_a_pair_of_gaussian_numbers_is_not_handed_on(worker: Worker) -> None:
    answer = worker.run("import random; random.gauss(0, 1); random._inst.gauss_next")
    assert answer.result is not None
    worker.run("import random; random._inst.gauss_next = 0.5")
    assert worker.run("import random; random._inst.gauss_next is None").result == "True"


def test_a_method_that_is_patched_does_not_hide_who_looks(fresh_worker: Worker) -> None:
    fresh_worker.run("import random; random.Random.getstate = lambda self: 'nothing'")
    first = fresh_worker.run(STATE).result
    assert first != fresh_worker.run(STATE).result
