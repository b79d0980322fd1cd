"""The responses that a simulated provider keeps, so that a request can go on from one by its id.

OpenAI keeps a response unless `store` is false. A request with `previous_response_id` has only the new items of its
input; the instructions of the earlier request do not apply to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convbatch.simulator.wire import ReplySpec, as_list, as_object, refuse

_MOST = 100_000
"""Responses that are kept; the oldest are forgotten first, as by a provider after some weeks."""


class StoredResponses:
    """Whole histories by the id of the response that ends them."""

    def __init__(self) -> None:
        """Start without any."""
        self._histories: dict[str, Sequence[Any]] = {}

    def __contains__(self, response_id: object) -> bool:
        return response_id in self._histories

    def forget(self) -> None:
        """Forget every response."""
        self._histories.clear()

    def with_history(self, body: Any) -> Any:
        """Return a request with the history that it refers to in its input; refuses an id that is not kept."""
        fields = as_object(body) or {}
        previous = fields.get("previous_response_id")
        if not isinstance(previous, str):
            return body
        if previous not in self._histories:
            message = f"Previous response with id '{previous}' not found."
            refuse("bad_request", message, field="previous_response_id")
        added: Any = fields.get("input")
        items: Any = [{"role": "user", "content": added}] if isinstance(added, str) else as_list(added)
        return body if items is None else {**fields, "input": [*self._histories[previous], *items]}

    def keep(self, reply_spec: ReplySpec, whole: Mapping[str, Any]) -> None:
        """Keep a response, if its request allows that."""
        if reply_spec.stored_input is None:
            return
        self._histories[str(whole["id"])] = (*reply_spec.stored_input, *whole.get("output", ()))
        if len(self._histories) > _MOST:
            del self._histories[next(iter(self._histories))]
