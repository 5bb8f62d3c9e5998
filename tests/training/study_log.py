"""Record the events of a study."""

from mlpbench.records.kinds import EpochResult


class Log:
    """Observe a study and receive its records; hold all events in order."""

    def __init__(self):
        self.entries = []
        self.epochs = []

    def start(self, config, num_done=0):
        self.entries.append(("start", config.seed, *([num_done] if num_done else [])))

    def epoch(self, epoch, config=None):
        seed = () if config is None else (config.seed,)
        self.entries.append(("epoch", epoch.index, *seed))

    def failure(self, config, reason):
        self.entries.append(("failure", config.seed, reason))

    def note(self, text):
        self.entries.append(("note", text))

    def emit(self, record):
        if isinstance(record, EpochResult):
            self.epochs.append(record)
        else:
            self.entries.append(("emit", record.config.seed))
