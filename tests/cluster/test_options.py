"""What `--workers` and `--on` refuse, before anything is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from convbatch._version import __version__
from convbatch.cluster.ray_cluster import refuse_other_versions
from convbatch.errors import SetupError
from tests.conftest import Command, config_for, environment, write_dataset


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--workers", "2", "--follow"], "--workers and --follow"),
        (["--workers", "2", "--log-bodies", "--log", "log.txt"], "--workers and --log-bodies"),
        (["--on", "dask"], "the only value is ray"),
        (["--workers", "0"], "--workers"),
        (["--workers", "100000"], "--workers 100000: this machine has"),
    ],
)
def test_what_needs_one_process_is_refused(tmp_path: Path, convbatch: Command, given: list[str], said: str):
    done = convbatch("run", write_dataset(tmp_path / "d.jsonl", 2, 1), *given)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["-m", "sim-good@both"], "sim-good@both is a pool"),
        (["-m", "sim-good@at-gemini", "--batch"], "--workers and batch jobs"),
    ],
)
def test_targets_and_rules_that_need_one_process_are_refused(
    tmp_path: Path, convbatch: Command, asked: list[str], said: str
):
    one = config_for("http://127.0.0.1:9", batches=True)
    other = one.replace("at-gemini", "beside").replace("127.0.0.1", "localhost")
    pool = '[pools.both]\ngateways = ["at-gemini", "beside"]\n'
    (tmp_path / "convbatch.toml").write_text("\n".join((one, other, pool)))
    done = convbatch("run", write_dataset(tmp_path / "d.jsonl", 2, 1), *asked, "--workers", "2")
    assert done.code == 2
    assert said in done.err
    assert "leave --workers out" in done.err
    assert not (tmp_path / "results").exists()


def test_the_simulator_and_addresses_of_clients_are_refused_on_a_cluster(tmp_path: Path, convbatch: Command):
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 1)
    done = convbatch("run", dataset, "--on", "ray", RAY_ADDRESS="127.0.0.1:1")
    assert (done.code, "answers on this machine alone" in done.err) == (2, True)
    done = convbatch("run", dataset, "--workers", "2", RAY_ADDRESS="ray://127.0.0.1:10001")
    assert (done.code, "HOST:6379" in done.err) == (2, True)


def test_without_ray_the_line_that_installs_it_is_printed(tmp_path: Path):
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 1)
    code = "import sys; sys.modules['ray'] = None; from convbatch.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", dataset, "--workers", "2"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "pip install 'convbatch[ray]'" in done.stderr
    assert not (tmp_path / "results").exists()


def test_other_versions_are_named():
    ours = {"convbatch": __version__, "python": ".".join(map(str, sys.version_info[:3])), "host": "far"}
    refuse_other_versions(ours)
    with pytest.raises(SetupError, match=r"the machine far has convbatch 0\.0\.9"):
        refuse_other_versions({**ours, "convbatch": "0.0.9"})
    with pytest.raises(SetupError, match=r"the machine far has Python 3\.99\.1"):
        refuse_other_versions({**ours, "python": "3.99.1"})


def test_a_run_without_workers_imports_nothing_of_them(tmp_path: Path):
    dataset = write_dataset(tmp_path / "d.jsonl", 2, 1)
    code = (
        "import sys; from convbatch.__main__ import main\n"
        "try: main()\n"
        "finally: print([name for name in sys.modules if name.startswith(('ray', 'convbatch.cluster'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", dataset], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.rstrip().endswith("\n[]"), done.stdout
