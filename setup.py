"""Package metadata. Two generations of TensorFlow are chosen by the Python version."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (HERE / "brats_gan" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

# tensorflow-addons 0.23 is its last release: TensorFlow 2.13-2.15, Python up to 3.11,
# no wheel for Windows. brats_gan/addons.py does without it where it is missing.
OLD = "python_version < '3.12'"
NEW = "python_version >= '3.12'"

setup(
    name="brats_gan",
    version=VERSION,
    description="Registered multi-modal brain MRI with lesions, from noise and a label",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["brats_gan", "brats_gan.*"]),
    package_data={"brats_gan": ["pretrained/*", "pretrained/*/*"]},
    py_modules=[
        "prepare_data",
        "train_structural",
        "train_multimodal",
        "build_dataset",
        "eval_segmentation",
    ],
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
        "scipy>=1.10",
    ],
    extras_require={
        "demo": ["nilearn>=0.10"],  # ships the MNI152 maps the phantom is made of
        "test": [
            "hypothesis>=6.100",
            "nilearn>=0.10",
            "pytest>=7.4",
            "pytest-xdist>=3.8",
        ],
        "dev": ["ruff>=0.6", "pre-commit>=3.5"],
        "gpu": [
            f"tensorflow[and-cuda]==2.15.1; {OLD}",
            f"tensorflow[and-cuda]>=2.18; {NEW}",
        ],
    },
)
