"""Where a run stands; part of every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint."""

    step: int = 0
    seconds: float = 0.0  # spent training and evaluating, over all starts
    train_seconds: float = 0.0
    images: int = 0
    loss: float | None = None
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_epoch: float | None = None
    evaluated_at: int = -1  # step
    starts: int = 0
    inference_s_per_image: float | None = None
    recovered: dict[str, int] = field(default_factory=dict)  # what went wrong and was made good: how often
    notes: list[str] = field(default_factory=list)  # the same in words, for the record
    reshuffled: list[int] = field(default_factory=list)  # steps from which on the order of the data is another one

    def recover(self, what: str, times: int = 1, note: str | None = None) -> None:
        """Counts a fault that was recovered from; each note is kept once."""
        if times:
            self.recovered[what] = self.recovered.get(what, 0) + times
        if note and note not in self.notes:
            self.notes.append(note)
