"""Work done ahead of the consumer: order, bounds, errors, and no thread left behind."""

import threading

import pytest

from tsp_model.ahead import ahead


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("count", [0, 1, 3, 10])
def test_results_come_in_order(count):
    with ahead(lambda x: x * x, range(count), 3) as squares:
        assert list(squares) == [x * x for x in range(count)]


def test_the_next_result_is_made_while_the_last_one_is_used():
    made = threading.Event()

    def make(item):
        if item == 1:
            made.set()
        return item

    with ahead(make, range(5), 1) as results:
        assert next(results) == 0
        assert made.wait(30), "nobody asked for it yet"


def test_no_more_is_drawn_than_asked_for():
    drawn = []

    def items():
        for item in range(10):
            drawn.append(item)
            yield item

    with ahead(lambda item: item, items(), 2) as results:
        next(results)
        assert drawn == [0, 1, 2]
        next(results)
        assert drawn == [0, 1, 2, 3]


def test_an_error_comes_in_its_place_and_ends_the_thread():
    def make(item):
        if item == 2:
            raise ValueError("torn")
        return item

    found = []
    with pytest.raises(ValueError, match="torn"), ahead(make, range(10), 4) as results:
        found.extend(results)
    assert helpers() == []
    with pytest.raises(ZeroDivisionError), ahead(make, (1 // item for item in (1, 0)), 4) as results:
        list(results)
    assert helpers() == []


def test_a_consumer_that_stops_leaves_no_thread_and_begins_nothing_more():
    begun = []
    with ahead(begun.append, range(100), 50) as results:
        next(results)
    assert helpers() == []
    assert len(begun) <= 51
