"""What several test files need."""

import pytest
import tensorflow as tf


@pytest.fixture
def eagerly():
    """Runs tf.functions eagerly: a single step is then cheaper than its tracing."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
