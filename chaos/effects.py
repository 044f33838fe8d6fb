"""What of the plans took effect: runs in which nothing went wrong have shown nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from chaos.plan import Action, Kind

ENOUGH = 20  # so often planned, a kind of action takes effect at least once


def kind_of(action: Action) -> str:
    """Return what an action is counted under: its kind, of a fault which one."""
    return str(action.what["fault"]["kind"] if action.kind is Kind.FAULT else action.kind)


@dataclass(slots=True)
class Effects:
    """How often each kind was planned and took effect, over all runs of a call."""

    planned: Counter[str] = field(default_factory=Counter)
    took: Counter[str] = field(default_factory=Counter)

    def add(self, actions: Iterable[Action], took: Counter[str]) -> None:
        self.planned.update(map(kind_of, actions))
        self.took.update(took)

    @property
    def idle(self) -> list[str]:
        """The kinds that were planned often and never took effect."""
        return sorted(kind for kind, count in self.planned.items() if count >= ENOUGH and not self.took[kind])

    def lines(self) -> list[str]:
        """The sums, one line for actions and one for faults; then what must not be."""
        actions = [str(kind) for kind in Kind if kind in self.planned]
        faults = sorted(set(self.planned) - set(actions))
        return [
            f"Actions that took effect: {self._told(actions)}.",
            f"Faults that hit something: {self._told(faults)}.",
            *(
                f"FAILED: {kind} was planned {self.planned[kind]} times, never with effect"
                for kind in self.idle
            ),
        ]

    def _told(self, kinds: Iterable[str]) -> str:
        return ", ".join(f"{kind} {self.took[kind]} of {self.planned[kind]}" for kind in kinds) or "none"
