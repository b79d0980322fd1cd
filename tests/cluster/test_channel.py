"""Messages arrive once and in order, whatever happens to the calls that carry them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convbatch.cluster.channel import Incoming, Outgoing

STEP = st.sampled_from(("put", "arrives", "lost", "answer lost", "twice", "late"))


@given(st.lists(STEP, max_size=60))
def test_messages_arrive_once_and_in_order(steps: list[str]):
    outgoing, incoming = Outgoing(), Incoming()
    sent, received = 0, list[int]()
    late: list[list[tuple[int, bytes]]] = []

    def call(batches: list[tuple[int, bytes]]) -> None:
        received.extend(incoming.accept(batches))

    for step in [*steps, "put", "lost", "arrives"]:
        if step == "put":
            outgoing.put(sent)
            sent += 1
            continue
        batches = outgoing.take()
        last = batches[-1][0] if batches else 0
        if step == "late":  # overtaken by the next call
            late.append(batches)
            continue
        if step == "lost":
            outgoing.send_again()
            continue
        call(batches)
        if step == "twice":
            call(batches)
        if step == "answer lost":
            outgoing.send_again()
            continue
        outgoing.acknowledged(incoming.last, last)
        for overtaken in late:
            call(overtaken)
        late.clear()
    while outgoing.has_unacknowledged or outgoing.has_new:
        outgoing.send_again()
        batches = outgoing.take()
        call(batches)
        outgoing.acknowledged(incoming.last, batches[-1][0] if batches else 0)
    assert received == list(range(sent))
