"""How a sweep is getting on, for who watches: a bar on a terminal, and a line for whatever ends or fails."""

from __future__ import annotations

import sys
from contextlib import ExitStack

from tqdm import tqdm

from shards.progress import Bar
from spider.heartbeat import told_to_go_on
from sweeps.ledger import Ledger
from untrusted.terminal import tell


class Progress:
    """Counts images over all trials. What ASHA stops is taken out of the total, so that the time left stays true."""

    def __init__(self, ledger: Ledger, seeds: int, shown: bool) -> None:
        self._ledger, self._shown = ledger, shown
        self._trials = ledger.configuration_count * seeds
        self._length = ledger.measure.length_kimg
        self._trained = {trial.name: min(trial.kimg, self._length) for trial in ledger.trials if trial.is_over}
        self._running: set[str] = set()
        self._best: tuple[float, str] | None = None
        for trial in ledger.trials:
            self._improve(trial.name, *[each.value for each in ledger.curve(trial)][-1:])
        self._bar = Bar(
            total=self._total(),
            initial=sum(self._trained.values()),
            unit="kimg",
            bar_format="{l_bar}{bar:20}| {n:.5g}/{total:.5g} kimg [{elapsed}<{remaining}{postfix}]",
            smoothing=0.02,
            shown=shown,
        )
        self._silence = ExitStack()
        if shown and not sys.stderr.isatty():  # a log has no clock of a bar
            self._silence.enter_context(told_to_go_on("waiting for the first numbers of a trial"))
        self._refresh()

    def close(self) -> None:
        """Take the bar away."""
        self._silence.close()
        self._bar.close()

    def say(self, line: str) -> None:
        """A line for the person who watches."""
        if self._shown and sys.stderr.isatty():
            tqdm.write(line, file=sys.stderr)
        elif self._shown:
            tell(line)  # a log has no bar to go around

    def started(self, name: str) -> None:
        """A trial begins, or begins again."""
        self._running.add(name)
        self._refresh()

    def reported(self, name: str, trained_kimg: float, value: float | None) -> None:
        """A trial says how far it is, and what it was measured at if it was."""
        self._silence.close()
        # A trial ends with the batch that passes its length, which the total does not count
        trained_kimg = max(min(trained_kimg, self._length), self._trained.get(name, 0.0))
        more = trained_kimg - self._trained.get(name, 0.0)
        self._bar.update(min(more, self._total() - self._bar.n))  # sums of fractions are not exact
        self._trained[name] = trained_kimg
        if value is not None:
            self._improve(name, value)
        self._refresh()

    def retried(self, name: str, error: str) -> None:
        """A trial failed, and is started again."""
        self.say(f"{name}: {error}; once more, from its last checkpoint")

    def ended(self, name: str) -> None:
        """A trial is over."""
        self._running.discard(name)
        self._bar.total = max(self._total(), self._bar.n)
        self._refresh()
        [trial] = [trial for trial in self._ledger.trials if trial.name == name]
        last = self._ledger.curve(trial)[-1:]
        measured = "".join(f", {each.label} {each.value:.4g}" for each in last if each.value is not None)
        why = f": {trial.error} (logs/{name}.txt)" if trial.error else ""
        done = sum(each.is_over for each in self._ledger.trials)
        self.say(f"{done}/{self._trials}  {name}: {trial.outcome} at {trial.kimg:g} kimg{measured}{why}")

    def _improve(self, name: str, value: float | None = None) -> None:
        measure = self._ledger.measure
        if value is None or value == measure.penalty:
            return
        if self._best is None or (value < self._best[0]) == (measure.better == "lower"):
            self._best = (value, name)

    def _total(self) -> float:
        over = [trial for trial in self._ledger.trials if trial.is_over]
        return sum(self._trained.get(trial.name, 0.0) for trial in over) + (self._trials - len(over)) * self._length

    def _refresh(self) -> None:
        over = [trial.outcome for trial in self._ledger.trials if trial.is_over]
        parts = [f"{len(over)}/{self._trials} trials", f"{len(self._running)} running"]
        parts += [f"{over.count('stopped')} stopped"] if "stopped" in over else []
        if self._best is not None:
            parts.append(f"best {self._best[0]:.4g} ({self._best[1].partition('_')[0]})")
        self._bar.set_postfix_str(", ".join(parts), refresh=sys.stderr.isatty())  # in a log, that would be a line
