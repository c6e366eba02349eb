"""What flags take beyond what absl knows: bounds that hold, paths, files, patterns."""

from __future__ import annotations

import os

from absl import flags

from brats_gan import files
from brats_gan import spec as specs
from brats_gan.io import patients


class Number(flags.FloatParser):
    """A number within bounds, both of which belong to it; not-a-number is beyond."""

    def is_outside_bounds(self, val: float) -> bool:
        return not self.lower_bound <= val <= self.upper_bound


class Multiple(flags.IntegerParser):
    """A whole number within bounds that is a multiple of the lower one."""

    def is_outside_bounds(self, val: int) -> bool:
        return super().is_outside_bounds(val) or val % self.lower_bound != 0

    @property
    def syntactic_help(self) -> str:
        return (
            f"a multiple of {self.lower_bound} from {self.lower_bound} to "
            f"{self.upper_bound}"
        )

    @syntactic_help.setter
    def syntactic_help(self, value: str) -> None:
        pass  # the parent's words leave out what the number is a multiple of


class StepsPerCall(flags.ArgumentParser):
    """What --steps_per_call takes: "auto", or a number above 0."""

    lower_bound, upper_bound = 1, 1_000_000

    def parse(self, argument: str | int) -> str | int:
        if argument == "auto":
            return argument
        if not str(argument).isdecimal() or not int(argument):
            raise ValueError(f"{argument} is neither auto nor a number above 0")
        if int(argument) > self.upper_bound:
            raise ValueError(f"{argument} is more than {self.upper_bound}")
        return int(argument)


class FolderParser(flags.ArgumentParser):
    """What flags of folders and files take: a path, whose ~ is the home folder.

    A shell leaves it alone behind the = of a flag. What is empty, as of an unset
    variable of the shell, is refused: it would be the folder that the shell is in, or
    another computation than was meant.
    """

    def parse(self, argument: str) -> str:
        if not argument:
            raise ValueError("names nothing; leave the flag out, or give a path")
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "path"


class SpecParser(flags.ArgumentParser):
    """What --spec takes: a JSON file, or JSON; flags.txt has the JSON."""

    def parse(self, argument: str | specs.Spec) -> specs.Spec:
        if isinstance(argument, specs.Spec):
            return argument
        return specs.parse(argument)

    def flag_type(self) -> str:
        return "data specification"


class PatternParser(flags.ArgumentParser):
    """What --patient_pattern takes: a regular expression with one group."""

    def parse(self, argument: str) -> str:
        try:
            patients.compiled(argument)
        except files.DataError as error:
            said = str(error).removeprefix(f"--patient_pattern={argument}: ")
            raise ValueError(said) from error
        return argument

    def flag_type(self) -> str:
        return "regular expression"
