"""What several test files need."""

import pytest
import tensorflow as tf


@pytest.fixture
def eagerly():
    """Runs tf.functions eagerly: a single step is then cheaper than its tracing."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def pytest_collection_modifyitems(items):
    """The longest file first: two processes then end at about the same time."""
    items.sort(key=lambda item: item.path.name != "test_scripts.py")
