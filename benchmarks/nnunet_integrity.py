"""Whether a folder that was converted passes nnU-Net's own check of it.

    python -m benchmarks.nnunet_integrity --data_dir=DIR --nnunet_python=PYTHON

Converts DIR, such as what build_dataset.py wrote, to nnU-Net's raw data in a temporary
folder, and has the Python of an environment with nnunetv2 run
verify_dataset_integrity on it. That environment is one of its own, as nnunetv2 asks for
PyTorch: python -m venv ENV; ENV/bin/pip install torch nnunetv2.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

from brats_gan.io import convert

_DATA = flags.DEFINE_string("data_dir", None, "Folder of any layout.", required=True)
_PYTHON = flags.DEFINE_string(
    "nnunet_python", sys.executable, "Python that has nnunetv2."
)
_CHECK = """
import importlib.metadata, sys
from nnunetv2.experiment_planning.verify_dataset_integrity import (
    verify_dataset_integrity,
)
if __name__ == "__main__":  # it starts processes of its own
    print("nnunetv2", importlib.metadata.version("nnunetv2"))
    verify_dataset_integrity(sys.argv[1], 2)
"""


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        done, problems = convert.convert(_DATA.value, folder, to="nnunet")
        for name, message in problems:
            print(f"error: {name}: {message}", file=sys.stderr)
        (converted,) = Path(folder).glob("Dataset*")
        script = Path(folder, "check.py")
        script.write_text(_CHECK)
        checked = subprocess.run([_PYTHON.value, script, converted], check=False)
    print(f"{len(done)} converted; the check ends with code {checked.returncode}")
    return 1 if problems else checked.returncode


if __name__ == "__main__":
    app.run(main)
