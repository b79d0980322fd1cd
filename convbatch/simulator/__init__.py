"""A simulated provider: several wires, keys, limits, faults and a billing ledger.

It imports nothing from the rest of the package, so it is an independent witness of what a client did.
"""

from convbatch.simulator.batches.jobs import JobLimits, JobTimes
from convbatch.simulator.fault_script import FaultError, FaultScript
from convbatch.simulator.http import Answer, Request
from convbatch.simulator.ledger import Entry, Ledger, busiest_window, key_hash, read_ledger
from convbatch.simulator.limits import ServerLimits
from convbatch.simulator.provider import Provider
from convbatch.simulator.replies import Script, ScriptError
from convbatch.simulator.server import Server, serve, serve_in_thread

__all__ = [
    "Answer",
    "Entry",
    "FaultError",
    "FaultScript",
    "JobLimits",
    "JobTimes",
    "Ledger",
    "Provider",
    "Request",
    "Script",
    "ScriptError",
    "Server",
    "ServerLimits",
    "busiest_window",
    "key_hash",
    "read_ledger",
    "serve",
    "serve_in_thread",
]
