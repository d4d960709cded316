"""What the judge found: numbers that must all be zero, and numbers that tell what was gone through."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

__all__ = ["Findings"]


@dataclass(frozen=True, slots=True)
class Findings:
    """Counts over one scenario.

    lost              inputs without a verdict and without a dead letter; alerts that are missing
    doubled           verdicts, dead letters or alerts too many
    disordered        verdicts out of the order of their key's events
    unlike            records that the concurrent and the late reader saw differently
    wrong_features    verdicts whose vector (of what one partition feeds), flags or first occurrence are not the
                      engine's, bit for bit, and that are not flagged as degraded
    wrong_reference   sampled features that differ from the slow reference beyond rounding
    wrong_scores      verdicts whose scores do not come out again when the detectors learn the log's vectors
    wrong_state       keys in Redis that differ from the engine's at rest, or are missing or too many
    undue_degraded    verdicts flagged degraded where nothing is missing
    degraded          verdicts flagged degraded, due or not
    referenced        sampled features compared with the slow reference
    """

    inputs: int = 0
    verdicts: int = 0
    dead_letters: int = 0
    duplicates: int = 0
    late: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    unlike: int = 0
    wrong_features: int = 0
    wrong_reference: int = 0
    wrong_scores: int = 0
    wrong_state: int = 0
    undue_degraded: int = 0
    degraded: int = 0
    referenced: int = 0

    def plus(self, **counts: int) -> Findings:
        """With ``counts`` added."""
        return replace(self, **{name: getattr(self, name) + count for name, count in counts.items()})

    @property
    def faults(self) -> dict[str, int]:
        """Which of the numbers that must be zero are not."""
        due = {f.name for f in fields(self)} - {
            "inputs", "verdicts", "dead_letters", "duplicates", "late", "degraded", "referenced"
        }  # fmt: skip
        return {name: count for name in sorted(due) if (count := getattr(self, name))}
