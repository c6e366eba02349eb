"""The four stages as functions: what a script does once it has read its flags.

    from brats_gan import data
    from brats_gan.stages import structural

    settings = structural.Settings(image_size=64, width=16, steps=500)
    structural.train(settings, data.Source("data/phantom"), "runs/structural")

Settings and data.Source are frozen, and their fields are named as the flags are: a run
that was begun from Python is continued by the script, and the other way. (One that
failed or was stopped is held by its process, which may start it again, until that
ends.) The stages set seeds and the Keras policy of the process, and report problems as
runs.RunError and files.DataError.

Use its modules by name: structural, multimodal, dataset, segmentation.
"""
