"""How long something takes, in words worked out by hand."""

import types

import pytest

from brats_gan import progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 seconds"),
        (1.2, "1 second"),
        (89, "89 seconds"),
        (403, "7 minutes"),
        (5400, "1.5 hours"),
        (72 * 3600, "3.0 days"),
    ],
)
def test_a_time_is_said_in_the_unit_one_speaks_of_it(seconds, words):
    assert progress.duration(seconds) == words


def test_a_forecast_says_how_many_pieces_of_how_long():
    # 1300 * 0.31 = 403 seconds.
    said = progress.forecast(1300, 0.31, "step")
    assert said == "1300 steps at 0.31 s/step: about 7 minutes"
    assert progress.forecast(1, 12.3, "step") == "1 step at 12 s/step: about 12 seconds"


def test_the_first_piece_is_not_measured_and_ten_after_it_are():
    pace = progress.Pace()
    # The first took 30 seconds, each of the others half of one.
    told = [pace.seen(done, 30 + 0.5 * (done - 1)) for done in range(1, 15)]
    assert told == [False] * 10 + [True] + [False] * 3
    assert pace.seconds == 0.5


def test_of_slow_pieces_fewer_are_measured():
    pace = progress.Pace()
    assert not pace.seen(1, 0.0) and not pace.seen(2, 9.0)
    assert pace.seen(3, 18.0) and pace.seconds == 9.0


def test_what_is_done_soon_needs_no_line(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False)
    line = progress.Line("checking DIR", "subject")
    line(1, 2)
    line(2, 2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("on_terminal", [True, False])
def test_lines_are_written_over_on_a_terminal_and_now_and_then_elsewhere(
    monkeypatch, capsys, on_terminal
):
    clock = iter(range(0, 1000, 8))  # a subject takes 8 seconds
    monkeypatch.setattr(
        progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock))
    )
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: on_terminal)
    line = progress.Line("checking DIR", "subject")
    for done in range(1, 7):
        line(done, 6)
    said = capsys.readouterr().err
    first = "checking DIR: 1 of 6 subjects, about 40 seconds to go"
    if on_terminal:
        assert said.count("\r") == 6 and said.count("\n") == 1
        assert said.startswith(f"\r{first}") and said.endswith("\n")
    else:
        # After 8 seconds, and 20 and more later.
        later = "checking DIR: 4 of 6 subjects, about 16 seconds to go"
        assert said.splitlines() == [first, later]
