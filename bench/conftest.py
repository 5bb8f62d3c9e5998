"""Take the options, hooks and fixtures of the suite."""

from mlpbench.certifying.suite_fixtures import *  # noqa: F403
from mlpbench.measuring.suite.plugin import *  # noqa: F403
