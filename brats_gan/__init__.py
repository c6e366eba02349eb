"""Registered multi-modal brain MRI with lesions, from noise and a label."""

__version__ = "0.1.0"
