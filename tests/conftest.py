"""What several test files need."""

import atexit
import logging
import os
import shutil
import signal
import tempfile

import absl.logging
import hypothesis
import pytest
import tensorflow as tf

# Of the scripts that tests start: no outcome is to depend on a measurement. Tests of
# the measurement take it out again.
os.environ["BRATS_GAN_PRECISION"] = "float32"

# Never the cache of who runs the tests: neither what is in it nor its place is ours.
os.environ["BRATS_GAN_CACHE"] = tempfile.mkdtemp(prefix="brats_gan-tests-")
atexit.register(shutil.rmtree, os.environ["BRATS_GAN_CACHE"], ignore_errors=True)
# What began ignored stays so, in the scripts too: under nohup, or in the background of
# a shell script, tests could not send these.
for name, handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGHUP", signal.SIG_DFL),
):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# The same few cases in every run of the suite; `make fuzz` draws others each time.
hypothesis.settings.register_profile(
    "short",
    max_examples=15,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "fuzz",
    hypothesis.settings.get_profile("short"),
    max_examples=500,
    derandomize=False,
    print_blob=True,
)
hypothesis.settings.load_profile("short")


@pytest.fixture(autouse=True)
def logging_as_it_began():
    """What an export sets, while it silences TensorFlow, outlasts it in a process."""
    absl.logging.get_absl_logger().setLevel(logging.NOTSET)


@pytest.fixture
def eagerly():
    """Runs tf.functions eagerly: a single step is then cheaper than its tracing."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def pytest_collection_modifyitems(items):
    """The longest file first: two processes then end at about the same time."""
    items.sort(key=lambda item: item.path.name != "test_scripts.py")
