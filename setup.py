"""Package metadata. Two generations of TensorFlow are chosen by the Python version."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "brats_gan" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

# They stay at the top level of the repository, and are the only copies there.
SHIPPED = {
    **{
        name: f"scripts/{name}"
        for name in (
            "prepare_data.py",
            "train_structural.py",
            "train_multimodal.py",
            "build_dataset.py",
            "eval_segmentation.py",
            "explore.py",
        )
    },
    **{
        path.relative_to(HERE).as_posix(): path.relative_to(HERE).as_posix()
        for path in sorted(HERE.glob("configs/*/*"))
    },
}


class BuildWithScripts(build_py):
    """Puts the scripts and flagfiles into the package that is built.

    brats_gan/shipped.py finds them there; the command brats-gan runs them. An editable
    installation uses those of the checkout.
    """

    def run(self):
        if not getattr(self, "editable_mode", False):
            # What an older version built here would go along.
            shutil.rmtree(Path(self.build_lib), ignore_errors=True)
        super().run()
        for source, target in self._targets().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target, preserve_mode=False)

    def _targets(self):
        if getattr(self, "editable_mode", False):
            return {}
        return {
            source: str(Path(self.build_lib, "brats_gan", target))
            for source, target in SHIPPED.items()
        }

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + [*self._targets().values()]

    def get_source_files(self):
        """What goes into a source distribution."""
        return super().get_source_files() + [*SHIPPED]


# tensorflow-addons 0.23 is its last release: TensorFlow 2.13-2.15, Python up to 3.11,
# no wheel for Windows. brats_gan/addons.py does without it where it is missing.
OLD = "python_version < '3.12'"
NEW = "python_version >= '3.12'"

APP = ["fastapi>=0.110", "uvicorn>=0.29"]  # the page of explore.py

setup(
    name="brats_gan",
    version=VERSION,
    description="Registered multi-modal brain MRI with lesions, from noise and a label",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["brats_gan", "brats_gan.*"]),
    package_data={
        "brats_gan": ["py.typed", "pretrained*/*", "pretrained*/*/*"],
        "brats_gan.app": ["static/*", "static/*/*"],
    },
    cmdclass={"build_py": BuildWithScripts},
    entry_points={"console_scripts": ["brats-gan = brats_gan.commands:main"]},
    install_requires=[
        f"tensorflow==2.15.1; {OLD}",
        f"tensorflow-addons==0.23.0; {OLD} and platform_system != 'Windows'",
        f"numpy>=1.24,<2; {OLD}",
        # 4.12 is built for NumPy 2 only.
        f"opencv-python>=4.8,<4.12; {OLD}",
        f"tensorflow>=2.18; {NEW}",
        f"numpy>=1.26; {NEW}",
        f"opencv-python>=4.10; {NEW}",
        # TensorFlow brings Keras; named because the package is written in its API.
        f"keras==2.15.0; {OLD}",
        f"keras>=3.5; {NEW}",
        "absl-py>=1.4",
        "tensorboard>=2.15",  # TensorFlow itself no longer asks for it
        "nibabel>=5.1",
        "SimpleITK>=2.3",  # .mha of BRATS2015
        "isal>=1.5",  # gzip several times as fast as zlib
        "matplotlib>=3.7",
        "pillow>=9.2",
        "scipy>=1.10",
        "jinja2>=3.1",  # reports, and the page of prepare_data.py check --report
    ],
    extras_require={
        "app": APP,
        "cluster": ["distributed>=2024.1"],  # --workers, --scheduler (docs/cluster.md)
        "demo": ["nilearn>=0.10"],  # ships the MNI152 maps the phantom is made of
        "test": [
            *APP,
            "distributed>=2024.1",
            "httpx>=0.27",  # FastAPI's client for tests
            "hypothesis>=6.100",
            "nilearn>=0.10",
            "playwright>=1.40",  # drives the Chromium of the system
            "pytest>=7.4",
            "pytest-xdist>=3.8",
            "setuptools>=64",  # a test builds the package, without a download
            "wheel",
        ],
        "dev": ["ruff>=0.6", "pre-commit>=3.5"],
        "gpu": [
            f"tensorflow[and-cuda]==2.15.1; {OLD}",
            f"tensorflow[and-cuda]>=2.18; {NEW}",
        ],
    },
)
