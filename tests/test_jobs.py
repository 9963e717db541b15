"""Durable jobs: what a request becomes, one at a time per project, and going on after kill -9."""

import errno
import json
import resource
import sqlite3
from contextlib import closing

import pytest

from backend import progress, workflows
from backend.connection import ProjectError, UnansweredError
from tests.job_bench import KEY, TRAINING, opened


@pytest.fixture
def bench(tmp_path):
    with opened(tmp_path) as bench:
        yield bench


def test_requests_while_one_waits_are_one_job(bench):
    first = bench.jobs.request("train", KEY)
    assert bench.jobs.request("train", KEY) == first == f"train-{KEY}-00001"
    assert bench.jobs.status(first) == {"job_id": first, "status": "QUEUED", "job_status": "queued"}
    other = bench.jobs.request("train", "5.1700000000")
    assert other != first
    assert bench.jobs.request("score", KEY) == f"score-{KEY}-00001"


def test_projects_whose_keys_share_a_beginning_do_not_share_jobs(bench):
    bench.jobs.request("train", "4.17")
    assert bench.jobs.request("train", "4.1") == "train-4.1-00001"


def test_the_last_job_is_found_by_key_and_by_bare_id(bench):
    bench.jobs.request("train", "4.17")
    newer = bench.jobs.request("train", "4.18")
    bench.jobs.request("train", "41.17")
    assert bench.jobs.last("train", "4") == newer
    assert bench.jobs.last("train", "4.17") == "train-4.17-00001"
    assert [bench.jobs.last("train", "5"), bench.jobs.last("score", "4"), bench.jobs.last("train", "4.1")] == [None] * 3


def test_unknown_jobs_and_paths_are_not_answered(bench):
    assert bench.jobs.status("train-4.1700000000-00009") is None
    assert bench.jobs.status("../../etc/passwd") is None


def test_a_request_during_a_training_means_exactly_one_more(bench):
    bench.worker()
    first = bench.in_training()
    state = bench.jobs.status(first)
    assert (state["job_status"], state["phase"]) == ("started", "train")
    second = bench.jobs.request("train", KEY)
    assert second != first
    assert bench.jobs.request("train", KEY) == second
    assert bench.jobs.status(second)["job_status"] == "queued" and bench.waits_for(second, first)
    bench.release("train")
    assert bench.ended(first)["version"] == "tsp-0001-20260101T000000"
    assert set(bench.ended(second)["seconds"]) == set(TRAINING)
    assert bench.log() == [f"{step} {KEY}" for step in TRAINING] * 2


def test_what_is_cancelled_ends_at_its_next_report_and_what_is_asked_for_then_runs(bench):
    bench.worker()
    running = bench.in_training()
    waiting, other = bench.jobs.request("train", KEY), bench.jobs.request("train", "41.1700000000")
    assert bench.jobs.cancel("4") == [running, waiting]
    after = bench.jobs.request("train", KEY)
    assert after not in (running, waiting)
    assert (bench.ended(running)["status"], bench.ended(running)["error"]) == ("ERROR", "it was cancelled.")
    bench.release("train")
    assert bench.ended(waiting)["error"] == "it was cancelled."
    assert [bench.ended(job_id)["status"] for job_id in (after, other)] == ["SUCCESS"] * 2
    assert bench.log().count("pull " + KEY) == 2 and bench.log().count("compare " + KEY) == 1
    assert bench.jobs.cancel(KEY) == []


def test_a_training_that_is_cancelled_while_no_worker_runs_does_not_go_on(bench):
    job_id = bench.killed_in_training()
    assert bench.jobs.cancel(KEY) == [job_id]
    bench.worker()
    assert bench.ended(job_id)["error"] == "it was cancelled."
    assert bench.log() == ["pull " + KEY, "train " + KEY, "discard " + KEY]


def test_kill_9_in_a_training_repeats_only_the_step_that_died(bench):
    job_id = bench.killed_in_training()
    after = bench.jobs.request("train", KEY)
    assert after != job_id, "the killed job has read its annotations already"
    bench.release("train")
    bench.worker()
    assert bench.ended(job_id)["status"] == "SUCCESS"
    assert bench.log()[: 1 + len(TRAINING)] == [f"{step} {KEY}" for step in ("pull", "train", *TRAINING[1:])]
    assert bench.ended(after)["status"] == "SUCCESS"


RANKING = {
    "a new version": ("derive", "score", "push", "switch", "prune"),
    "the active one": ("derive", "catch_up tsp-0001-20260101T000000", "switch", "prune"),
}


def in_ranking(bench, what):
    """A ranking, and its worker in the midst of the step in which Label Studio gets predictions; that step's name."""
    if what == "a new version":
        (bench.folder / "new").touch()
    step = RANKING[what][-3]
    bench.hold(step)
    bench.worker()
    job_id = bench.jobs.request("rank", KEY)
    bench.until(lambda: f"{step} {KEY}" in bench.log(), f"{step} to start")
    return job_id, step


@pytest.mark.parametrize("what", RANKING)
def test_kill_9_in_a_ranking_repeats_only_the_step_that_died(bench, what):
    job_id, step = in_ranking(bench, what)
    bench.workers[0].kill()
    bench.workers[0].wait()
    bench.release(step)
    bench.worker()
    assert bench.ended(job_id)["status"] == "SUCCESS"
    assert bench.log() == [f"{one} {KEY}" for one in (*RANKING[what][:-2], *RANKING[what][-3:])]


@pytest.mark.parametrize("what", RANKING)
def test_a_ranking_that_is_cancelled_discards_a_version_of_its_own_and_no_other(bench, what):
    job_id, _ = in_ranking(bench, what)
    assert bench.jobs.cancel(KEY) == [job_id]
    assert bench.ended(job_id)["error"] == "it was cancelled."
    discarded = ["discard"] if what == "a new version" else []
    assert bench.log() == [f"{one} {KEY}" for one in (*RANKING[what][:-2], *discarded)]


def test_a_failing_step_ends_the_job_with_one_line_and_the_next_job_runs(bench):
    (bench.folder / "fail-score").touch()
    bench.worker()
    job_id = bench.jobs.request("train", KEY)
    state = bench.ended(job_id)
    assert (state["status"], state["error"]) == ("ERROR", "score cannot go on; do something")
    assert bench.log() == [f"{step} {KEY}" for step in ("pull", "train", "compare", "score")]
    assert state["again"] is False, "it would meet the same again"
    (bench.folder / "fail-score").unlink()
    assert bench.ended(bench.jobs.request("train", KEY))["status"] == "SUCCESS"
    assert "Traceback" not in (bench.folder / "stderr").read_text()


def test_a_step_waits_for_a_label_studio_that_is_away_and_the_status_says_so(bench):
    (bench.folder / "away-push").touch()
    bench.worker()
    job_id = bench.jobs.request("train", KEY)
    bench.until(lambda: bench.jobs.status(job_id).get("waits"), "it to wait")
    state = bench.jobs.status(job_id)
    assert (state["job_status"], state["phase"], state["waits"]) == ("started", "push", "no Label Studio answers")
    (bench.folder / "away-push").unlink()
    state = bench.ended(job_id)
    assert (state["status"], state["waits"]) == ("SUCCESS", None)
    assert [line for line in bench.log() if "push" not in line] == [f"{one} {KEY}" for one in TRAINING if one != "push"]


def test_a_step_waits_for_room_on_the_disk(bench):
    (bench.folder / "full-train").touch()
    bench.worker()
    job_id = bench.jobs.request("train", KEY)
    bench.until(lambda: bench.jobs.status(job_id).get("waits"), "it to wait")
    assert "No space left" in bench.jobs.status(job_id)["waits"]
    (bench.folder / "full-train").unlink()
    assert bench.ended(job_id)["status"] == "SUCCESS"


@pytest.mark.parametrize(
    ("error", "passes", "away"),
    [
        (ProjectError("refused", 401), False, False),
        (ProjectError("its own error, perhaps for this project alone", 500), True, False),
        (ProjectError("a proxy that reaches nobody", 503), True, True),
        (UnansweredError("nobody"), True, True),
        (OSError(errno.ENOSPC, "full"), True, True),
        (OSError(errno.EACCES, "not allowed"), False, False),
        (ValueError("wrong"), False, False),
    ],
)
def test_what_may_pass_and_what_is_worth_a_day(error, passes, away):
    assert (workflows._may_pass(error), workflows._away(error)) == (passes, away)


def test_a_clock_that_was_set_back_loses_no_request(bench):
    bench.worker()
    first = bench.jobs.request("check", KEY)
    bench.ended(first)
    with closing(sqlite3.connect(bench.folder / "jobs.sqlite")) as database, database:
        database.execute("UPDATE workflow_status SET created_at = created_at + 3600000")
    for number in (2, 3, 4):
        job_id = bench.jobs.request("check", KEY)
        assert job_id == f"check-{KEY}-{number:05d}" == bench.jobs.last("check", KEY)
        assert bench.ended(job_id)["status"] == "SUCCESS"
    assert len(bench.log()) == 4


def test_after_a_disk_that_was_full_the_job_goes_on_and_the_next_one_runs(bench):
    """Files cannot grow for a while, neither the database nor what the steps write."""
    bench.hold("train")
    worker = bench.worker()
    first = bench.jobs.request("train", KEY)
    bench.until(lambda: "train " + KEY in bench.log(), "the training to start")
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    bench.release("train")
    bench.until(lambda: f"job {first} failed: " in (bench.folder / "stderr").read_text(), "the disk to be full")
    second = bench.jobs.request("train", KEY)
    assert "INSERT" not in (bench.folder / "stderr").read_text(), "the cause, not the statement"
    assert bench.jobs.status(second)["status"] == "QUEUED"
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    bench.until(lambda: bench.jobs.status(second)["status"] == "SUCCESS", "the one after it")
    assert bench.jobs.status(first)["status"] == "SUCCESS"
    assert worker.poll() is None, "the same process, begun anew"
    assert "the worker starts anew" in (bench.folder / "stderr").read_text()
    assert bench.log().count(f"pull {KEY}") == 2, "what was done is not done again"


def test_a_version_that_is_worse_is_kept_and_the_status_says_so(bench):
    (bench.folder / "worse").touch()
    bench.worker()
    state = bench.ended(bench.jobs.request("train", KEY))
    assert (state["status"], state["activated"], state["message"]) == ("SUCCESS", False, "it is worse.")
    assert bench.log() == [f"{step} {KEY}" for step in ("pull", "train", "compare", "prune")]
    (bench.folder / "worse").unlink()
    assert bench.ended(bench.jobs.request("train", KEY))["activated"] is True


def test_activating_reads_what_is_wanted_when_its_turn_comes(bench):
    (bench.folder / "wanted").write_text("tsp-0001-20260101T000000")
    asked = bench.jobs.request("activate", KEY)
    (bench.folder / "wanted").write_text("tsp-0002-20260101T000000")
    assert bench.jobs.request("activate", KEY) == asked
    bench.worker()
    assert bench.ended(asked)["message"] == "tsp-0002-20260101T000000 is active."
    assert bench.log() == [f"wanted {KEY}", f"catch_up tsp-0002-20260101T000000 {KEY}", f"switch {KEY}"]


def test_a_check_asks_for_a_training_only_when_one_is_due(bench):
    bench.worker()
    idle = bench.ended(bench.jobs.request("check", KEY))
    assert "train_job_id" not in idle
    (bench.folder / "due").touch()
    due = bench.ended(bench.jobs.request("check", KEY))
    assert bench.ended(due["train_job_id"])["status"] == "SUCCESS"


def test_what_webhooks_could_not_say_before_they_had_the_password_is_looked_for_after(bench):
    bench.worker()
    bench.ended(bench.jobs.request("connect", KEY))
    bench.ended(f"check-{KEY}-00001")
    bench.ended(f"score-{KEY}-00001")
    assert bench.log() == [f"{step} {KEY}" for step in ("connect", "due", "score_new")]


def test_old_jobs_are_forgotten_but_for_what_runs_and_the_newest_of_each_kind(bench):
    bench.worker()
    checks = [bench.jobs.request("check", KEY)]
    bench.ended(checks[0])
    while len(checks) < 3:
        checks.append(bench.jobs.request("check", KEY))
        bench.ended(checks[-1])
    score = bench.jobs.request("score", KEY)
    bench.ended(score)
    bench.hold("train")
    training = bench.jobs.request("train", KEY)
    bench.until(lambda: "train " + KEY in bench.log(), "the training to start")
    assert bench.jobs.forget(days=1) == 0
    assert bench.jobs.forget(days=0) == 2
    known = [name for name in (*checks, score, training) if bench.jobs.status(name) is not None]
    assert known == [checks[2], score, training]
    assert {path.stem for path in (bench.folder / "jobs").iterdir()} == set(known)
    bench.release("train")
    assert bench.ended(training)["status"] == "SUCCESS"
    assert bench.jobs.request("check", KEY) == f"check-{KEY}-00004", "numbers go on"
    with closing(sqlite3.connect(bench.folder / "jobs.sqlite")) as database:
        (left,) = database.execute("SELECT count(*) FROM operation_outputs WHERE workflow_uuid = ?", checks[:1])
    assert left == (0,)


def test_the_database_holds_json_and_nothing_pickled(bench):
    bench.worker()
    assert bench.ended(bench.jobs.request("train", KEY))["status"] == "SUCCESS"
    (bench.folder / "fail-score").touch()
    assert bench.ended(bench.jobs.request("train", KEY))["status"] == "ERROR"
    with closing(sqlite3.connect(bench.folder / "jobs.sqlite")) as database:
        rows = database.execute("SELECT inputs, output, error, serialization FROM workflow_status").fetchall()
        rows += database.execute("SELECT NULL, output, error, serialization FROM operation_outputs").fetchall()
    texts = [text for row in rows for text in row[:3] if text is not None]
    assert len(texts) > 10 and all(json.loads(text) is not Ellipsis for text in texts)
    assert {row[3] for row in rows} == {"portable_json"}


def test_progress_of_a_job_that_goes_on_keeps_its_seconds(tmp_path):
    job = progress.Progress(tmp_path, f"train-{KEY}-00001")
    job.start()
    with job.phase("pull"):
        pass
    again = progress.Progress(tmp_path, f"train-{KEY}-00001")
    with again.phase("train"):
        again.update({"phase": "train", "done": 2, "total": 4, "loss": 1.5, "eta_seconds": 2.0, "other": 1})
    state = json.loads((tmp_path / "jobs" / f"train-{KEY}-00001.json").read_text())
    assert set(state["seconds"]) == {"pull", "train"}
    assert (state["done"], state["total"], state["loss"]) == (2, 4, 1.5)
    assert "other" not in state


def test_a_stage_says_how_long_it_waited_for_label_studio_and_one_within_another_counts_for_itself(
    tmp_path, monkeypatch
):
    clock = iter((0.0, 1.0, 6.0, 8.0))  # seconds: catch_up begins, pull begins, pull ends, catch_up ends
    job = progress.Progress(tmp_path, f"rank-{KEY}-00001")
    waited = iter((10.0, 10.5, 12.5, 13.5))
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_now", lambda: (next(clock), next(waited)))
        with job.phase("catch_up"), job.phase("pull"):
            pass
    state = progress.read(tmp_path, f"rank-{KEY}-00001")
    assert state["seconds"] == {"pull": 5.0, "catch_up": 3.0}
    assert state["label_studio_seconds"] == {"pull": 2.0, "catch_up": 1.5}
    assert progress.stages(state) == "pull 5.0 s (Label Studio 2.0 s), catch_up 3.0 s (Label Studio 1.5 s)"


def test_how_far_a_training_is_stands_in_its_file_and_in_the_log_and_the_next_phase_begins_anew(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(progress, "_LOG_EVERY", 0.0)
    monkeypatch.setattr(progress, "_WRITE_EVERY", 0.0)
    name = f"train-{KEY}-00001"
    job = progress.Progress(tmp_path, name)
    step = {"done": 40, "total": 400, "epoch": 3, "epochs": 30, "loss": 0.8321, "eta_seconds": 95.4}
    with caplog.at_level("INFO", logger="backend.progress"), job.phase("train"):
        job.update(step)
        assert progress.read(tmp_path, name).items() >= step.items()
    with job.phase("score"):
        state = progress.read(tmp_path, name)
        assert (state["done"], state["epoch"], state["epochs"], state["loss"]) == (0, None, None, None)
    assert caplog.messages[:2] == [
        f"{name}: train",
        f"{name}: train, 40 of 400, epoch 3 of 30, loss 0.832, 95 s left",
    ]
