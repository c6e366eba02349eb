"""Registered multi-modal brain MRI with lesions, from noise and a label."""

from brats_gan import lazy

__version__ = "0.2.0"

# They need TensorFlow, or matplotlib, already to be imported.
lazy.load(
    __name__,
    "addons",
    "blocks",
    "code_bank",
    "code_flow",
    "figures",
    "layers",
    "map_networks",
    "networks",
    "schedules",
    "synthesis",
)
