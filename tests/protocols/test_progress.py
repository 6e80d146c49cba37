"""Progress as lines of a file: few, with counts and seconds, and none for what is quick."""

import inspect
import io

import pytest

import probmodel as pb
from probmodel.protocols.session.progress import Lines, shown_progress, shows_progress, stage, tick


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_lines_are_written_every_ten_seconds_and_at_the_end():
    file, clock = io.StringIO(), Clock()
    with Lines("NUTS", 2_000, file, clock) as bar:
        for _ in range(100):
            clock.now += 0.25
            bar.update(20)
            bar.set_postfix_str("warm-up")
    lines = file.getvalue().splitlines()
    assert lines == [
        "NUTS: 820 of 2,000 steps, 10 s, warm-up",
        "NUTS: 1,640 of 2,000 steps, 20 s, warm-up",
        "NUTS: 2,000 of 2,000 steps, 25 s, done",
    ]
    assert "\r" not in file.getvalue()


def test_nothing_is_written_below_a_second_and_a_failure_is_named():
    file, clock = io.StringIO(), Clock()
    with Lines("quick", None, file, clock) as bar:
        clock.now = 0.9
        bar.update()
    assert file.getvalue() == ""
    with pytest.raises(KeyError), Lines("slow", None, file, clock) as bar:
        bar.update(3)
        clock.now = 5
        raise KeyError
    assert file.getvalue() == "slow: 3 steps, 4 s, stopped\n"


def test_a_computation_inside_another_reports_to_the_outer_one(monkeypatch):
    seen = []

    class Bar(Lines):
        def update(self, n=1):
            seen.append((self.name, n))

    monkeypatch.setattr(
        "probmodel.protocols.session.progress.progress_bar", lambda name, total, shown: Bar(name, total, io.StringIO())
    )

    @shows_progress
    def inner(*, progress=True):
        tick()

    tick()
    with shown_progress("outer", shown=True):
        stage("first")
        inner()
        inner(progress=False)
    assert {name for name, _ in seen} == {"outer"} and sum(n for _, n in seen) == 2


LONG = [
    "ais",
    "reverse_ais",
    "smc",
    "sandwich",
    "bridge",
    "harmonic",
    "nested",
    "thermodynamic",
    "stepping_stone",
    "importance",
]


@pytest.mark.parametrize(
    "function",
    [*(getattr(pb.evidence, name) for name in [*LONG, "elbo", "iwae", "wbic", "best"]), pb.diagnose, pb.compare],
    ids=lambda f: f.__name__,
)
def test_long_computations_show_progress_by_default_in_the_same_place(function):
    parameters = inspect.signature(function).parameters
    assert list(parameters)[-1] == "progress"
    assert parameters["progress"].default is True and parameters["progress"].kind is inspect.Parameter.KEYWORD_ONLY
