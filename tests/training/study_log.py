"""Record the events of a study."""


class Log:
    """Observe a study and receive its results; hold all events in order."""

    def __init__(self):
        self.entries = []

    def start(self, config):
        self.entries.append(("start", config.seed))

    def epoch(self, epoch, config=None):
        seed = () if config is None else (config.seed,)
        self.entries.append(("epoch", epoch.index, *seed))

    def failure(self, config, reason):
        self.entries.append(("failure", config.seed, reason))

    def emit(self, result):
        self.entries.append(("emit", result.config.seed))
