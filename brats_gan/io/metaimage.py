"""MetaImage (.mha) of BRATS2015, by SimpleITK."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from brats_gan.files import DataError
from brats_gan.io.headers import Header, checked_affine, checked_shape, voxel_bytes
from brats_gan.io.streams import isal_zlib

_MHA_HEADER = 2**16  # bytes in which the header ends


def read_mha(path: str | os.PathLike) -> tuple[Header, bytes]:
    """Header and voxels of a MetaImage file, by SimpleITK."""
    import SimpleITK as sitk  # slow to import, and only BRATS2015 needs it

    content = Path(path).read_bytes()
    fields, start = _mha_fields(path, content)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
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
    _require_whole_mha(fields, memoryview(content)[start:], voxel_bytes(header))
    try:
        voxels = sitk.GetArrayFromImage(reader.Execute()).tobytes()
    except RuntimeError as error:
        raise EOFError("its voxels do not decode") from error
    return header, voxels


_NO_MHA = "{}: not a MetaImage file, or its header is damaged. Download it again."


def _mha_fields(path, content):
    """{name: text} of the header of a .mha, and where its voxels begin.

    SimpleITK ends the process at some headers that make no sense, and follows others to
    files elsewhere, so only what BRATS2015 has is let through to it.
    """
    head = content[:_MHA_HEADER]
    end = re.search(rb"^ElementDataFile[ \t]*=.*\n", head, re.M)
    lines = re.findall(rb"(.*)\n", head[: end.end()]) if end else []
    pairs = [re.fullmatch(rb"(\w+)[ \t]*=[ \t]*([ -~]*?)[ \r]*", x) for x in lines]
    if not pairs or not all(pairs):
        raise DataError(_NO_MHA.format(path))
    fields = {pair[1].decode(): pair[2].decode() for pair in pairs}
    if fields["ElementDataFile"] != "LOCAL":
        raise DataError(f"{path}: its voxels are in another file. Save it as one .mha.")
    number = "[0-9]{1,9}"
    spaced = "[-+0-9.eE]+( +[-+0-9.eE]+)"
    forms = {
        "ObjectType": "Image",
        "NDims": "3",
        "DimSize": f"{number}( +{number}){{2}}",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "True|False",
        "CompressedData": "True|False",
        "CompressedDataSize": "[0-9]{1,12}",
        "ElementNumberOfChannels": number,
        "ElementType": "MET_[A-Z_]+",
        "HeaderSize": "0",
        "TransformMatrix": f"{spaced}{{8}}",
        "Offset": f"{spaced}{{2}}",
        "ElementSpacing": f"{spaced}{{2}}",
    }
    if len(fields) < len(pairs):
        raise DataError(f"{path}: a field twice in its header. Save it again.")
    due = ("NDims", "DimSize", "ElementType")
    wrong = [name for name in due if name not in fields]
    wrong += [
        name
        for name, form in forms.items()
        if name in fields and not re.fullmatch(form, fields[name])
    ]
    if wrong:
        raise DataError(
            f"{path}: its header has an unusual {wrong[0]}. Save it as one 3-D binary "
            ".mha."
        )
    return fields, end.end()


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
