"""An observer of studies that keeps what happens."""


class Log:
    """An observer, and a place for the results: all that happens, in order."""

    def __init__(self):
        self.entries = []

    def start(self, config):
        self.entries.append(("start", config.seed))

    def epoch(self, epoch, config=None):
        whose = () if config is None else (config.seed,)
        self.entries.append(("epoch", epoch.index, *whose))

    def failure(self, config, reason):
        self.entries.append(("failure", config.seed, reason))

    def emit(self, result):
        self.entries.append(("emit", result.config.seed))
