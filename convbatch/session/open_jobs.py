"""Batch jobs that earlier sessions of a run left open, from its journal; and the runner of a session that has any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convbatch.engine.batches.values import EarlierJob
    from convbatch.engine.runner import Runner
    from convbatch.journal.index import Archive
    from convbatch.session.spec import SessionSpec


def open_jobs(past: Archive) -> list[EarlierJob]:
    """Return the jobs without a record of their end, with those of their requests that have no outcome."""
    from convbatch.engine.batches.values import EarlierJob, fold_jobs

    found: list[EarlierJob] = []
    for name, records in fold_jobs(past.jobs).items():
        asked = next((record for record in records if record["job_state"] == "asked"), None)
        creating = next((record for record in reversed(records) if record["job_state"] == "creating"), None)
        made = next((record for record in records if record["job_state"] == "made"), None)
        found.append(
            EarlierJob(
                name=name,
                target=records[0]["target"],
                wave=records[0]["wave"],
                size=records[0]["lines"],
                asked_at=records[0]["at"],
                creating_at=None if creating is None else creating["at"],
                state=records[-1]["job_state"],
                job_id=None if made is None else made["job_id"],
                made_at=None if made is None else made["at"],
                intents=() if asked is None else tuple(past.job_intents(asked)),
            )
        )
    return found


def make_runner(spec: SessionSpec, archive: Archive | None, **parts: Any) -> Runner:
    """Return the runner of a session: by batch jobs if it is to make, read or cancel any."""
    from convbatch.engine.runner import Runner

    is_of_models = spec.work.role == "model"
    earlier = open_jobs(archive) if archive is not None and archive.jobs and is_of_models else []
    if not is_of_models or (spec.rules.batch is None and not earlier):
        return Runner(rules=spec.rules, **parts)
    from convbatch.engine.batches.runner import BatchRunner, last_waves

    return BatchRunner(
        run=spec.manifest.run or spec.folder.name,
        mode=spec.rules.batch or "live",
        earlier=earlier,
        known=() if archive is None else [record["job_id"] for record in archive.jobs if "job_id" in record],
        waves={} if archive is None else last_waves(archive.jobs),
        batch_prices={target.name: target.batch_prices for target in spec.manifest.targets},
        rules=spec.rules,
        **parts,
    )
