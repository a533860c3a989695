"""Signals: once to finish what is in flight, twice to stop at once."""

import os
import signal
import threading

import pytest

from reelscribe.errors import StoppedError
from reelscribe.runners import stop as module
from reelscribe.runners.stop import stop_at_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_to_stop_and_the_second_stops(
    number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_LAST_SECONDS", 1e6)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    timers = threading.active_count()
    with stop_at_signals(True) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.signal == number
        assert "finishing what is in flight; once more stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert threading.active_count() == timers + 1
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
            thread.join()


def test_a_signal_while_a_model_is_loaded_leaves_nothing_to_finish() -> None:
    told: list[bool] = []
    with (
        pytest.raises(StoppedError, match="stopped while the model was loaded") as caught,
        stop_at_signals(True, lambda: told.append(True), is_loading=lambda: True),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert (caught.value.signal, told) == (signal.SIGTERM, [])


def test_no_signal_is_taken_where_that_is_not_wanted_or_not_possible() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def look() -> None:
        with stop_at_signals(True) as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop()))

    with stop_at_signals(False) as stop:
        assert signal.getsignal(signal.SIGINT) is before
        assert not stop()
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
