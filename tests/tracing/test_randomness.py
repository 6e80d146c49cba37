"""Contexts restore what belongs to the process, and threads that run models follow one another."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from problems.small_fits import rows, slope
from torch.distributions import Distribution

from probmodel.inference import SVI, Laplace
from probmodel.tracing.internals import set_validation, validation
from probmodel.tracing.programs import turns
from probmodel.tracing.programs.turns import Turns, one_thread_at_a_time
from probmodel.tracing.randomness import isolated

# ------------------------------------------------------------------------------------------- switches of validation


@pytest.mark.parametrize("torchs", [True, False])
@pytest.mark.parametrize("pyros", [True, False])
def test_a_fit_leaves_the_checks_of_distributions_as_they_were(torchs, pyros):
    """Pyro has a switch of its own and sets PyTorch's to it, so that the two may differ before and agree after."""
    before = validation()
    switches = before._replace(torch=torchs, pyro=pyros)
    try:
        set_validation(switches)
        Laplace(num_samples=3)(slope, rows(), seed=0)
        assert validation() == switches and Distribution._validate_args is torchs
        with pytest.raises(KeyError), isolated(0), pyro.validation_enabled(False):
            raise KeyError
        assert validation() == switches
    finally:
        set_validation(before)


@pytest.mark.parametrize("checks", ["True", "False"])
def test_importing_the_package_leaves_them_as_they_were(checks):
    """Some of the packages that it imports turn them off."""
    code = f"from torch.distributions import Distribution as D; import pyro; D.set_default_validate_args({checks})"
    code += "; import probmodel; print(D._validate_args)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split()[-1] == checks


# ------------------------------------------------------------------------------------------- threads


def test_fits_in_threads_are_those_of_one_thread():
    settings, data = SVI(num_steps=30, num_samples=50, progress=False, compile=False, patience=None), rows()

    def draws(seed):
        return settings(slope, data, seed=seed).draws["a"]

    alone = [draws(seed) for seed in range(4)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(draws, range(4)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_a_thread_waits_until_the_other_has_left():
    inside, seen = threading.Event(), []

    def other():
        with isolated(1):
            seen.append(torch.initial_seed())
            inside.set()

    thread = threading.Thread(target=other)
    with isolated(2):
        with isolated(3), one_thread_at_a_time():
            thread.start()
        assert not inside.wait(0.2)
    thread.join(10)
    assert seen == [1]


def test_the_turn_of_a_generator_ends_where_it_is_closed():
    """Its context may be left by another thread than the one that has entered it."""

    def inside():
        with one_thread_at_a_time():
            yield

    held = [inside()]
    thread = threading.Thread(target=next, args=(held[0],))
    thread.start()
    thread.join(10)
    held.clear()
    gc.collect()
    with isolated(0):
        pass


def test_the_turn_of_a_thread_that_has_ended_is_over():
    lock = Turns()
    thread = threading.Thread(target=lock.take, args=(object(),))
    thread.start()
    thread.join(10)
    lock.take(object())
    assert lock.owner.identity == threading.get_ident()


def test_a_thread_that_waits_for_the_others_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(turns, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(turns, "CHECK_SECONDS", 0.05)

    def enter():
        with isolated(1):
            pass

    with isolated(0), ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="do not wait for other threads"):
        pool.submit(enter).result(timeout=30)


def test_a_thread_at_work_is_waited_for(monkeypatch):
    monkeypatch.setattr(turns, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(turns, "CHECK_SECONDS", 0.05)
    entered = threading.Event()

    def work():
        with isolated(1):
            entered.set()
            begin = time.monotonic()
            while time.monotonic() - begin < 1.5:
                sum(range(1_000))

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(10)
    with isolated(0):
        pass
    thread.join(10)


@pytest.mark.usefixtures("interruptible")
def test_a_waiting_thread_can_be_interrupted():
    leave, entered = threading.Event(), threading.Event()

    def hold():
        with isolated(1):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), isolated(0):
        pass
    assert time.monotonic() - begin < 20
    leave.set()
    thread.join(10)


def test_a_forked_process_does_not_wait_for_threads_that_it_has_not():
    leave, entered = threading.Event(), threading.Event()

    def hold():
        with one_thread_at_a_time():
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        with one_thread_at_a_time():
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    leave.set()
    thread.join(10)
    assert status == 0
