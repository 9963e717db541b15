"""Jobs on PostgreSQL that several workers share, as if each ran on a machine of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backend.presence import OURS, lock_of, running
from backend.settings import load
from scripts.backend_process import BackendProcess
from scripts.processes import free_port
from tests.job_bench import KEY, TRAINING, Bench, opened
from tests.postgres import NO_POSTGRES, Postgres, postgres, program

OTHER = "41.1700000000"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if program("postgres") is None:
        pytest.skip(NO_POSTGRES)
    with postgres() as server:
        yield server


@pytest.fixture
def bench(server: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Two workers on a database of its own, which they make."""
    with opened(tmp_path, server.url(request.node.name)) as bench:
        bench.worker()
        bench.worker()
        yield bench


def count(bench: Bench) -> int:
    return running(load({"MODEL_DIR": str(bench.folder), "TSP_DATABASE_URL": bench.url}))


def test_a_worker_that_starts_first_makes_the_database(server: Postgres, tmp_path: Path) -> None:
    url = server.url("not_there_yet")
    nobody = f"http://127.0.0.1:{free_port()}"
    with BackendProcess(tmp_path, free_port(), nobody, "no token", "worker", TSP_DATABASE_URL=url):
        assert running(load({"MODEL_DIR": str(tmp_path), "TSP_DATABASE_URL": url})) == 1


def test_projects_train_side_by_side_and_a_project_s_jobs_one_after_the_other(bench: Bench) -> None:
    first = bench.in_training()
    second = bench.jobs.request("train", KEY)
    other = bench.in_training(OTHER)  # by the idle worker, which passes the one before over
    assert bench.worker_of(f"train {KEY}") != bench.worker_of(f"train {OTHER}")
    assert bench.log().count(f"pull {KEY}") == 1
    assert bench.jobs.request("train", KEY) == second != first
    third = bench.jobs.request("train", OTHER)
    assert bench.waits_for(second, first) and bench.waits_for(third, other)
    bench.release("train")
    assert [bench.ended(job)["status"] for job in (first, other, second, third)] == ["SUCCESS"] * 4
    assert [line for line in bench.log() if line.endswith(KEY)] == [f"{step} {KEY}" for step in TRAINING] * 2


def test_what_a_killed_worker_left_goes_on_in_the_other_where_it_was(bench: Bench) -> None:
    job_id = bench.in_training()
    killed = bench.worker_of(f"train {KEY}")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    bench.release("train")
    assert bench.ended(job_id)["status"] == "SUCCESS"
    assert bench.log() == [f"{step} {KEY}" for step in ("pull", "train", *TRAINING[1:])]
    assert bench.worker_of(f"switch {KEY}") != killed
    assert count(bench) == 1


def test_a_database_that_starts_anew_takes_no_worker_for_gone(bench: Bench, server: Postgres) -> None:
    job_id = bench.in_training()
    bench.until(bench.all_started, "both workers")
    server.stop()
    server.start()
    bench.until(lambda: count(bench) == 2, "both workers again")
    bench.release("train")
    assert bench.ended(job_id)["status"] == "SUCCESS"
    assert bench.log() == [f"{step} {KEY}" for step in TRAINING]


def test_a_worker_whose_job_was_taken_over_leaves_it_alone(bench: Bench, server: Postgres) -> None:
    job_id = bench.in_training()
    cut_off = bench.worker_of(f"train {KEY}")
    bench.until(bench.all_started, "both workers")
    cut_off.send_signal(signal.SIGSTOP)  # as a machine without network: it lives, and its connection ends
    (owner,) = bench.jobs.running().values()
    with psycopg.connect(bench.url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE classid = %s AND objid = %s",
            (OURS, lock_of(owner)),
        )
    bench.until(lambda: bench.log().count(f"train {KEY}") == 2, "the other to take it over")
    cut_off.send_signal(signal.SIGCONT)
    bench.until(lambda: "the worker starts anew" in (bench.folder / "stderr").read_text(), "it to notice")
    bench.release("train")
    assert bench.ended(job_id)["status"] == "SUCCESS"
    bench.until(lambda: count(bench) == 2, "both workers")
    assert bench.log() == [f"{step} {KEY}" for step in ("pull", "train", *TRAINING[1:])]
    assert bench.worker_of(f"switch {KEY}") != cut_off
