"""What the page asks and is told: choices to arrays, arrays to bytes."""

from __future__ import annotations

import base64
import binascii
import collections
import hashlib
import io as streams
import json
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

import brats_gan
from brats_gan import data, files, io, painting, recipes
from brats_gan.app import opened
from brats_gan.recipes import Code, Recipe
from brats_gan.stages import painted

KEPT = 24  # last pictures and maps, so that what follows need not draw them again
_ZIPPED = (1980, 1, 1, 0, 0, 0)  # of every file in a zip: the same set, the same bytes


class Asked(NamedTuple):
    """What somebody chose in the page."""

    seed: int
    height: int | None
    directions: tuple[float | None, ...]
    style: int | None  # None: the mean style
    label: str  # base64 of [H, W] uint8


def packed(told: dict, arrays: dict[str, np.ndarray | bytes]) -> bytes:
    """One answer: the length of a JSON header as uint32, the header, the arrays.

    All little endian. The header has `told`, and under "parts" name, dtype, shape and
    length in bytes of each array.
    """
    parts, blobs = [], []
    for name, array in arrays.items():
        if isinstance(array, bytes):
            array = np.frombuffer(array, np.uint8)
        blob = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        parts.append(
            {
                "name": name,
                "dtype": array.dtype.name,
                "shape": list(array.shape),
                "bytes": len(blob),
            }
        )
        blobs.append(blob)
    header = json.dumps({**told, "parts": parts}).encode()
    return b"".join([len(header).to_bytes(4, "little"), header, *blobs])


class Answers:
    """Answers of one studio. Called by one thread at a time.

    Args:
        studio: painting.Studio.
        pool: labels to place, or None.
        subjects: io.Subject of a data folder, which the volume view shows.
    """

    def __init__(
        self,
        studio: painting.Studio,
        pool: data.LabelPool | data.Slices | None = None,
        subjects: list[io.Subject] | None = None,
    ) -> None:
        self.studio, self._pool = studio, pool
        self._subjects = subjects or []
        self._maps = _Last(KEPT)
        self._pictures = _Last(KEPT)

    @property
    def size(self) -> int:
        """Pixels a side of a label."""
        return self.studio.size

    def state(self) -> dict:
        """What the page is made of: sizes, names, bounds, subjects."""
        studio, spec = self.studio, self.studio.models.spec
        return {
            "version": brats_gan.__version__,
            "size": studio.size,
            "millimetres": spec.crop / studio.size,
            "modalities": list(spec.modalities),
            "labels": list(spec.labels),
            "heights": studio.noise[1],
            "directions": studio.directions,
            "farthest": painting.FARTHEST,
            "most_seed": recipes.MOST_SEED,
            "styles": studio.models.styles is not None,
            "pool": 0 if self._pool is None else len(self._pool.lesions),
            "mae_threshold": studio.settings.mae_threshold,
            "dice_threshold": studio.settings.dice_threshold,
            "models": _named(studio.settings),
            "subjects": [subject.name for subject in self._subjects],
        }

    def code(self, asked: Asked) -> Code:
        """The code that was chosen; ValueError where there is none of it."""
        count = self.studio.noise[1]
        height = asked.height if count else None
        if count and (height is None or height >= count):
            raise ValueError(f"height: is {height}, and 0 to {count - 1} is due.")
        if len(asked.directions) > self.studio.directions:
            raise ValueError(
                f"directions: {self.studio.directions} are the most of these models."
            )
        return painting.code_of(
            self.studio, asked.seed, height, asked.directions, asked.style
        )

    def label(self, asked: Asked) -> np.ndarray:
        """The label that was painted, [H, W] uint8; ValueError if it is none."""
        size, most = self.size, self.studio.models.spec.num_labels - 1
        try:
            content = base64.b64decode(asked.label, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("label: it is not base64.") from error
        if len(content) != size * size:
            raise ValueError(
                f"label: it has {len(content)} pixels, and {size} x {size} are due."
            )
        label = np.frombuffer(content, np.uint8).reshape(size, size)
        if label.max(initial=0) > most:
            raise ValueError(f"label: it has {label.max()}, and 0 to {most} are due.")
        return label

    def draw(self, asked: Asked) -> bytes:
        """Map and pictures of what was painted, and what can be said of them at once.

        Parts: "f", "outside" [H, W] uint8, "images" [M, H, W] uint16 of [0, 1].
        """
        code, label = self.code(asked), self.label(asked)
        shown, images = self._drawn(code, label)
        beyond = painting.outside(shown, label)
        threshold = self.studio.settings.mae_threshold
        count = self.studio.directions
        told = {
            "mae": shown.mae,
            "map_passes": shown.mae <= threshold,
            "beyond": beyond,
            "placed": beyond == 0,
            "directions": [float(each) for each in code.subject[:count]],
            "blank": images is None,
        }
        if images is None:
            images = np.zeros((self.studio.models.spec.num_modalities, *label.shape))
        arrays = {
            "f": shown.f.astype(np.uint8),
            "outside": (~shown.inner).astype(np.uint8),
            "images": np.rint(images * 65535).astype(np.uint16),
        }
        return packed(told, arrays)

    def judge(self, asked: Asked) -> bytes:
        """The label that the segmentors find in the pictures, and its index Dice.

        Part: "found" [N, H, W] uint8.
        """
        code, label = self.code(asked), self.label(asked)
        _, images = self._drawn(code, label)
        if images is None:
            return packed({"dice": [], "mean": 0.0, "passes": False}, {})
        found = painting.found_in(self.studio, images)
        dice = painting.dice_of(label, found)
        mean = float(np.mean(dice))
        threshold = self.studio.settings.dice_threshold
        told = {"dice": dice, "mean": mean, "passes": mean >= threshold}
        return packed(told, {"found": found})

    def place(self, asked: Asked, seed: int) -> bytes:
        """A real label, moved at random until it fits. Part: "label" [H, W] uint8."""
        if self._pool is None:
            raise ValueError(
                "There are no real labels: start explore.py with the weights that come "
                "with the package, or with --data_dir."
            )
        shown = self._map(self.code(asked))
        label, _, fitted = painting.place_real(self.studio, shown, self._pool, seed)
        return packed({"fitted": fitted}, {"label": label.astype(np.uint8)})

    def open(self, content: bytes) -> bytes:
        """A label out of a file's bytes. Part: "label" [H, W] uint8."""
        found = opened.label_of(content, self.size, self.studio.models.spec)
        return packed({"said": found.said}, {"label": found.label})

    def recipe(self, asked: Asked) -> Recipe:
        """What makes the set again."""
        studio, chosen = self.studio, self.studio.settings
        return Recipe(
            *(asked.seed, self.code(asked), self.label(asked), studio.prints),
            *(chosen.mask_images, chosen.mae_threshold, chosen.dice_threshold),
        )

    def archive(self, asked: Asked) -> bytes:
        """The set as a data set of BraTS' layout with its recipe, as a zip."""
        recipe = self.recipe(asked)
        with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
            painted.write(self.studio, recipe, folder)
            content = streams.BytesIO()
            with zipfile.ZipFile(content, "w") as zipped:
                for path in sorted(Path(folder).rglob("*")):
                    if path.is_file():
                        name = path.relative_to(folder).as_posix()
                        entry = zipfile.ZipInfo(f"painted/{name}", _ZIPPED)
                        entry.external_attr = 0o644 << 16
                        zipped.writestr(entry, path.read_bytes())
        return content.getvalue()

    def sheet(self, asked: Asked) -> bytes:
        """The set as a PNG, as samples.png of a data set shows it."""
        recipe = self.recipe(asked)
        with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
            path = Path(folder, "sheet.png")
            painted.sheet(self.studio, recipe, path)
            return path.read_bytes()

    def volume(self, asked: Asked) -> bytes:
        """The whole brain as NIfTI. Parts: each modality by its name, and "label"."""
        spec = self.studio.models.spec
        images, label = painting.volume(
            self.studio, self.code(asked), self.label(asked)
        )
        pixel = spec.crop / self.size
        affine = np.diag([-pixel, -pixel, 1.0, 1.0])

        def nifti(volume, dtype, slope=None):
            volume = np.moveaxis(volume, 0, -1)
            return io.nifti_bytes(volume, dtype, slope, affine)

        arrays = {
            name: nifti(image, np.int16, io.IMAGE_SLOPE)
            for name, image in zip(spec.modalities, images, strict=True)
        }
        return packed({}, {**arrays, "label": nifti(label, np.uint8)})

    def subject(self, number: int, channel: int) -> bytes:
        """A modality of a subject of the data folder as NIfTI; its label, numbered as
        `spec.labels` is, if `channel` is as many as there are modalities. LookupError
        where there is no such one."""
        if not 0 <= number < len(self._subjects):
            raise LookupError("There is no such subject.")
        subject = self._subjects[number]
        modalities = list(subject.images)
        if not 0 <= channel <= len(modalities):
            raise LookupError("There is no such modality.")
        is_label = channel == len(modalities)
        if is_label and subject.label is None:
            raise LookupError("This subject has no label.")
        try:
            if is_label:
                grid = io.lps_grid(subject.label, io.read_header(subject.label))
                label = io.load_label(subject, None, grid)
                volume, affine = np.moveaxis(label, 0, -1), grid.affine
            else:
                path, within = subject.images[modalities[channel]]
                volume, affine = io.load_volume(path, within)
        except files.DataError as error:  # names a file of this machine
            logging.error("%s", error)
            raise ValueError(
                "This volume cannot be read; the terminal says why."
            ) from error
        return io.nifti_bytes(volume, volume.dtype, None, affine)

    def _map(self, code):
        key = _key(code)
        shown = self._maps.get(key)
        if shown is None:
            shown = self._maps.put(key, painting.map_of(self.studio, code))
        return shown

    def _drawn(self, code, label):
        """(Map, images or None), drawn anew or remembered."""
        shown = self._map(code)
        key = _key(code, label.tobytes(), code.style.tobytes())
        held = self._pictures.get(key)
        if held is None:
            images = painting.images_of(self.studio, shown, label, code.style)
            held = self._pictures.put(key, (images,))
        return shown, held[0]


def _key(code, *more):
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        code.subject.tobytes(),
        code.detail.tobytes(),
        str(code.height).encode(),
        *more,
    ):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _named(settings):
    """What the models are called, without the folders that they lie in."""
    runs_ = (settings.structural_run, settings.multimodal_run)
    names = dict.fromkeys(Path(str(run)).name for run in runs_)
    # Names of folders need not be text, JSON must be.
    return [name.encode(errors="replace").decode() for name in names]


class _Last:
    """The last values by key, no more than `most`."""

    def __init__(self, most):
        self._most, self._values = most, collections.OrderedDict()

    def get(self, key):
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key, value):
        self._values[key] = value
        if len(self._values) > self._most:
            self._values.popitem(last=False)
        return value
