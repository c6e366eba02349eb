"""MetaImage (.mha) of BRATS2015, by SimpleITK."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from brats_gan.files import DataError
from brats_gan.io.headers import Header, checked_affine, checked_shape, voxel_bytes
from brats_gan.io.streams import isal_zlib

_MHA_HEADER = 2**18  # bytes in which the header ends; DICOM tags may be many


def read_mha(path: str | os.PathLike) -> tuple[Header, bytes]:
    """Header and voxels of a MetaImage file, by SimpleITK."""
    import SimpleITK as sitk  # slow to import, and only BRATS2015 needs it

    content = Path(path).read_bytes()
    fields, start, is_plain = _mha_fields(path, content)
    with contextlib.ExitStack() as stack:
        readable = path
        if not is_plain:
            voxels = memoryview(content)[start:]
            readable = stack.enter_context(_with_known_fields(fields, voxels))
        return _by_simpleitk(sitk, path, readable, fields, memoryview(content)[start:])


@contextlib.contextmanager
def _with_known_fields(fields, voxels) -> Iterator[str]:
    """A file with the same voxels, and no field in its header but those we know."""
    last = "ElementDataFile"
    lines = [f"{name} = {value}\n" for name, value in fields.items() if name != last]
    with tempfile.TemporaryDirectory(prefix="brats_gan-") as folder:
        path = Path(folder, "volume.mha")
        with path.open("wb") as file:
            file.write("".join([*lines, f"{last} = LOCAL\n"]).encode())
            file.write(voxels)
        yield str(path)


def _by_simpleitk(sitk, path, readable, fields, content):
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(readable))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(_NO_MHA.format(path)) from error
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path}: several values a voxel. Save it as one volume.")
    sizes = [int(size) for size in reader.GetSize()]
    one_voxel = sitk.Image([1, 1, 1], reader.GetPixelID())
    dtype = sitk.GetArrayViewFromImage(one_voxel).dtype
    shape = checked_shape(path, sizes, dtype)
    if len(sizes) > 3:
        raise DataError(f"{path}: {len(sizes)}-D. Save one volume a file.")
    affine = np.eye(4)  # its world is LPS
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    affine, to_lps = checked_affine(path, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    header = Header(shape, dtype, 1.0, 0.0, 0, affine, to_lps, True)
    _require_whole_mha(fields, content, voxel_bytes(header))
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute()).tobytes()
    except RuntimeError as error:
        raise EOFError("its voxels do not decode") from error
    return header, voxels


_NO_MHA = "{}: not a MetaImage file, or its header is damaged. Download it again."


# Fields by other names that MetaIO takes for the same.
_SAME = {
    "Position": "Offset",
    "Origin": "Offset",
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_NUMBER = "[0-9]{1,9}"
_SPACED = "[-+0-9.eE]+( +[-+0-9.eE]+)"
# The fields that say what the voxels are and where they lie, and what they may say.
_FORMS = {
    "ObjectType": "Image",
    "NDims": "3",
    "DimSize": f"{_NUMBER}( +{_NUMBER}){{2}}",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "True|False",
    "CompressedData": "True|False",
    "CompressedDataSize": "[0-9]{1,12}",
    "ElementNumberOfChannels": _NUMBER,
    "ElementType": "MET_[A-Z_]+",
    "HeaderSize": "0",
    "TransformMatrix": f"{_SPACED}{{8}}",
    "Offset": f"{_SPACED}{{2}}",
    "ElementSpacing": f"{_SPACED}{{2}}",
    "ElementDataFile": "LOCAL",
}
# Fields that would change the voxels, which SimpleITK does not heed; and what they may
# say, which changes nothing.
_CHANGING = {
    "ElementToIntensityFunctionSlope": r"[+]?1(\.0*)?",
    "ElementToIntensityFunctionOffset": r"[-+]?0(\.0*)?",
    "RescaleSlope": r"[+]?1(\.0*)?",
    "RescaleIntercept": r"[-+]?0(\.0*)?",
}

# With every volume that SimpleITK writes: no need to write it anew.
_PLAIN = (*_FORMS, "CenterOfRotation", "AnatomicalOrientation")


def _mha_fields(path, content):
    """{name: text} of the header of a .mha, where its voxels begin, and whether it has
    no field that is not known.

    SimpleITK ends the process at some headers that make no sense, and follows others to
    files elsewhere, so only what BRATS2015 has is let through to it. Software copies
    into a header what it knows of a volume, such as pixdim[1] or 0008|0060: such fields
    may have any name and any bytes, and are not needed.
    """
    head = content[:_MHA_HEADER]
    end = re.search(rb"^ElementDataFile[ \t]*=.*\n", head, re.M)
    lines = re.findall(rb"(.*)\n", head[: end.end()]) if end else []
    pairs = [re.fullmatch(rb"([^=]*?)[ \t]*=[ \t]*(.*?)[ \t\r]*", x) for x in lines]
    if not pairs or not all(pairs):
        raise DataError(_NO_MHA.format(path))
    fields, is_plain = {}, True
    has_size = any(pair[1] == b"ElementSize" for pair in pairs)
    for pair in pairs:
        name, value = pair[1].decode("latin-1"), pair[2].decode("latin-1")
        known = _SAME.get(name, name)
        if known in fields:
            raise DataError(
                f"{path}: a field twice in its header: {name!a:.40}. Save it again."
            )
        if name in _CHANGING and not re.fullmatch(_CHANGING[name], value):
            raise DataError(
                f"{path}: {name} = {value!a:.40} in its header would change the "
                "voxels. Apply it, and save the volume without it."
            )
        if known in _FORMS:
            fields[known] = value
        is_plain &= name in _PLAIN and re.fullmatch("[ -~]*", value) is not None
    if fields["ElementDataFile"] != "LOCAL":
        raise DataError(f"{path}: its voxels are in another file. Save it as one .mha.")
    due = ("NDims", "DimSize", "ElementType")
    wrong = [name for name in due if name not in fields]
    wrong += ["ElementSize"] * (has_size and "ElementSpacing" not in fields)
    wrong += [
        name for name, value in fields.items() if not re.fullmatch(_FORMS[name], value)
    ]
    if wrong:
        raise DataError(
            f"{path}: its header has an unusual {wrong[0]}. Save it as one 3-D binary "
            ".mha."
        )
    return fields, end.end(), is_plain


def _require_whole_mha(fields, voxels, voxel_bytes):
    """Error unless the voxels of a .mha are all there, and their checksum is right.

    SimpleITK looks at neither: where the compressed voxels are damaged it returns
    others, without a word.
    """
    if fields.get("CompressedData") == "True":
        packed = int(fields.get("CompressedDataSize", len(voxels)))
        inflate = isal_zlib.decompressobj()
        # One byte more than due, so that the checksum at the end is reached.
        whole = inflate.decompress(voxels[:packed], voxel_bytes + 1)
        if packed > len(voxels) or not inflate.eof or len(whole) != voxel_bytes:
            raise EOFError("voxels are missing at the end")
    elif len(voxels) < voxel_bytes:
        raise EOFError("voxels are missing at the end")
