"""Predictions sent while others are made: what is sent when, and that nothing depends on it."""

import logging
import threading

import pytest

from backend.early import EarlySender
from tests.builders import prediction
from tsp_model.predictions import PredictionFile


class Sink:
    """Takes predictions as Label Studio would, one by one, and remembers their keys."""

    def __init__(self, fail_at=None):
        self.keys, self.fail_at = [], fail_at
        self.news = threading.Condition()
        self.ended = threading.Event()

    def __call__(self, predictions):
        try:
            for one in predictions:
                if len(self.keys) == self.fail_at:
                    raise RuntimeError("no Label Studio answers:\n start it")
                with self.news:
                    self.keys.append(one.key)
                    self.news.notify()
        finally:
            self.ended.set()

    def wait_for(self, *keys):
        with self.news:
            assert self.news.wait_for(lambda: self.keys == list(keys), 30), self.keys


@pytest.fixture
def file(tmp_path):
    (tmp_path / "p.jsonl").touch()
    return PredictionFile(tmp_path / "p.jsonl")


def made(*keys):
    return [prediction(key, [(0.9, 0.9, 0.9)]) for key in keys]


def senders():
    return [thread for thread in threading.enumerate() if thread.name == "early-sender"]


def test_each_prediction_is_sent_once_while_more_are_made(file):
    sink = Sink()

    def stream():
        yield from made("a", "b")
        sink.wait_for("a", "b")
        yield from made("c")
        sink.wait_for("a", "b", "c")
        yield from made("d")

    with EarlySender(file._path, sink, first=2) as sender:
        file.add(stream(), sender.on_disk)
    assert sink.keys[:3] == ["a", "b", "c"] and sink.ended.is_set()
    assert senders() == []


def test_what_was_there_before_is_sent_too_once_enough_is_new(file):
    file.add(made("old"))
    few, sink = Sink(), Sink()
    with EarlySender(file._path, few, first=2) as sender:
        file.add(made("a"), sender.on_disk)
    assert not few.ended.is_set(), "one new prediction is not worth a call"

    def stream():
        yield from made("b", "c")
        sink.wait_for("old", "a", "b", "c")

    with EarlySender(file._path, sink, first=2) as sender:
        file.add(stream(), sender.on_disk)


def test_a_failure_is_one_line_and_stops_nothing(file, caplog):
    sink = Sink(fail_at=1)

    def stream():
        yield from made("a", "b")
        assert sink.ended.wait(30)
        yield from made("c")

    with caplog.at_level(logging.WARNING), EarlySender(file._path, sink, first=1) as sender:
        file.add(stream(), sender.on_disk)
    assert list(file) == ["a", "b", "c"]
    (record,) = caplog.records
    assert record.getMessage().endswith("no Label Studio answers: start it") and record.exc_info is None


def test_an_error_of_the_maker_ends_the_thread_and_is_not_hidden(file):
    def stream():
        yield from made("a")
        raise ValueError("torn image")

    with pytest.raises(ValueError, match="torn image"), EarlySender(file._path, Sink(), first=1) as sender:
        file.add(stream(), sender.on_disk)
    assert senders() == []
