"""Reports: a page for every run and data set, which needs nothing beside it.

`python -m brats_gan.report FOLDER...` writes one anew, or one of several folders side
by side; stages write that of their own folder while they train, and at the end.
"""

from brats_gan.report.card import CARD
from brats_gan.report.live import Live, finish
from brats_gan.report.writing import NAME, write

__all__ = ["CARD", "NAME", "Live", "finish", "write"]
