"""A game that is won is said, once."""

from absl import logging

from brats_gan.runs import games

NAMES = ["accuracy_D", "accuracy_FD", "generator"]


def play(watched, first, steps, of_d, of_fd=0.6):
    for step in range(first, first + steps):
        watched.see(step, NAMES, [of_d, of_fd, 100.0])


def said(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: lines.append(text % a))
    return lines


def test_a_discriminator_that_wins_for_500_steps_is_named_once(monkeypatch):
    lines = said(monkeypatch)
    watched = games.Games()
    play(watched, 0, 499, 0.99)
    assert not lines
    play(watched, 499, 700, 0.99)
    assert len(lines) == 1
    assert lines[0].startswith("step 499: D was right 99 % of the time over 500 steps")


def test_a_game_that_opens_again_may_be_lost_again(monkeypatch):
    lines = said(monkeypatch)
    watched = games.Games()
    play(watched, 0, 500, 0.96)
    play(watched, 500, 500, 0.7)
    play(watched, 1000, 500, 0.96)
    assert [line.split(":")[0] for line in lines] == ["step 499", "step 1480"]


def test_a_single_lucky_stretch_is_no_win(monkeypatch):
    lines = said(monkeypatch)
    watched = games.Games()
    for first in range(0, 2000, 400):
        play(watched, first, 200, 1.0)
        play(watched, first + 200, 200, 0.7)
    assert not lines


def test_losses_are_not_games(monkeypatch):
    lines = said(monkeypatch)
    watched = games.Games()
    for step in range(600):
        watched.see(step, ["d_real", "generator"], [1.0, 1.0])
    assert not lines
