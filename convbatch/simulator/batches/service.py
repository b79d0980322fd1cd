"""The batch APIs of all providers, and background responses, on one store of jobs and files."""

from __future__ import annotations

from convbatch.simulator.batches.anthropic import AnthropicJobs
from convbatch.simulator.batches.background import BackgroundResponses
from convbatch.simulator.batches.gemini import GeminiJobs
from convbatch.simulator.batches.jobs import JobLimits, JobTimes, MakeLine
from convbatch.simulator.batches.openai import OpenAIJobs
from convbatch.simulator.batches.store import JobRequest, JobService, JobStore, Served
from convbatch.simulator.stored_responses import StoredResponses


class BatchService:
    """Gives each request to the API of its wire."""

    def __init__(
        self, make: MakeLine, responses: StoredResponses, *, times: JobTimes, limits: JobLimits, seed: int
    ) -> None:
        """Start without jobs; `make` answers the request of a line."""
        self.store = JobStore(make, times=times, limits=limits, seed=seed)
        self.background = BackgroundResponses(self.store, responses)
        self._services: dict[str, JobService] = {
            "openai": OpenAIJobs(self.store),
            "responses": self.background,
            "anthropic": AnthropicJobs(self.store),
            "gemini": GeminiJobs(self.store),
        }

    def serve(self, request: JobRequest) -> Served:
        """Answer a request; raises `RefusedRequest`."""
        return self._services[request.route.wire.name].serve(request)

    def model_of(self, request: JobRequest) -> str | None:
        """Return the model that a request is about, as far as that is known before it is served."""
        if request.route.operation == "create":
            return self._services[request.route.wire.name].model_of(request)
        return self.store.jobs.model_of(request.item)
