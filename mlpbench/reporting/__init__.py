"""Write for people: tables, figures and pages. Only this package and the command line import pandas."""

import os
from unittest import mock

# Figures are files here, never windows. The user's backend may be of a package that is not installed, and the user's
# style file may be damaged: matplotlib refuses to be imported then. So its first import sees neither.
with mock.patch.dict(os.environ, {"MATPLOTLIBRC": os.devnull}):
    os.environ.pop("MPLBACKEND", None)
    import matplotlib  # noqa: F401, ICN001 (it is imported for its first import alone)
