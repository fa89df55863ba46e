"""What telling of a request costs the pool: where nobody listens, and where somebody does."""

from __future__ import annotations

import statistics
import time

from jupyter_pool import KernelPool
from jupyter_pool.core import Outcome
from jupyter_pool.engine.events import Hub, Subscription, check_types
from jupyter_pool.engine.request import Completion, Mailbox, Request
from jupyter_pool.engine.telling import Teller

#: The most that telling of a request may cost, in µs.
LIMIT = 10.0
ROUNDS, REQUESTS, CALLS = 40, 500, 200


def tell(teller: Teller, request: Request) -> None:
    """All that the driver does for one request: its three calls."""
    teller.queued(request)
    teller.dispatched(request, None)
    teller.ended(
        Completion(request, "p", Outcome.DONE, None, None, None, True, time.monotonic(), {})
    )


def made(request: Request) -> None:
    """What it does in any case."""
    Completion(request, "p", Outcome.DONE, None, None, None, True, time.monotonic(), {})


def request_of(number: int) -> Request:
    request = Request(str(number), "", Mailbox(), "g", session_id="s", worker_id=1)
    request.first_dispatched, request.split, request.kind = request.created, 1, "call"
    return request


def test_telling_of_a_request_costs_little() -> None:
    silent, loud = Hub("silent"), Hub("loud")
    seen: list[object] = []
    requests = [request_of(number) for number in range(REQUESTS)]
    times: dict[str, list[float]] = {"made": [], "nobody": [], "somebody": []}
    with Subscription(loud, seen.append, check_types(None), limit=10**9) as subscription:
        tellers = {"nobody": Teller(silent), "somebody": Teller(loud)}
        for _ in range(ROUNDS):  # interleaved, so that a slow moment hits all alike
            began = time.process_time()
            for request in requests:
                made(request)
            times["made"].append(time.process_time() - began)
            for name, teller in tellers.items():
                began = time.process_time()
                for request in requests:
                    tell(teller, request)
                # All threads' time: until the callback has seen it all.
                subscription.flush(60)
                times[name].append(time.process_time() - began)
    assert len(seen) == 3 * ROUNDS * REQUESTS
    base = statistics.median(times["made"])
    cost = {name: (statistics.median(times[name]) - base) / REQUESTS * 1e6 for name in tellers}
    print("\nCPU time per request for telling of it, µs (at most 10)")
    print(f"nobody listens       {cost['nobody']:6.2f}")
    print(f"somebody listens     {cost['somebody']:6.2f}   three events, delivered")
    assert cost["nobody"] < 1.5
    assert cost["somebody"] <= LIMIT


def test_calls_with_and_without_a_listener() -> None:
    with KernelPool(1) as pool:
        pool.submit(int).result()
        seen: list[object] = []
        times: dict[str, list[float]] = {"nobody": [], "somebody": []}

        def calls() -> float:
            began = time.process_time()
            for _ in range(CALLS):
                pool.submit(int).result()
            return (time.process_time() - began) / CALLS * 1e6

        for _ in range(ROUNDS):
            times["nobody"].append(calls())
            with pool.subscribe(seen.append):
                times["somebody"].append(calls())
    assert len(seen) == 3 * ROUNDS * CALLS
    p50 = {name: statistics.median(taken) for name, taken in times.items()}
    print("\nCPU time of the owner per call, one after another, µs")
    print(f"nobody listens       {p50['nobody']:6.1f}")
    print(f"somebody listens     {p50['somebody']:6.1f}   three events each")
