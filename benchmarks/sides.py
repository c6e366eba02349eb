"""The subjects of a folder that a split names."""

from brats_gan import files, io


def named(data_dir, split, source):
    """{name: io.Subject} of a folder, all of them.

    Args:
        data_dir: str.
        split: of data.load_split.
        source: file of the split, for the message.

    Raises:
        DataError: one that the split names is not there.
    """
    found = io.find_subjects(data_dir, patient_pattern=split.get("patient_pattern"))
    by_name = {subject.name: subject for subject in found}
    missing = sorted({*split["train"], *split["test"]} - by_name.keys())
    if missing:
        raise files.DataError(
            f"{data_dir} lacks {', '.join(missing)}, which {source} names; give the "
            "--data_dir that the split is of"
        )
    return by_name
