"""``tidegate backtest --card FILE``: the model card beside the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from domain.errors import Fatal
from domain.pipeline import Pipeline
from lifecycle.backtest import BacktestRun
from lifecycle.backtest_card import backtest_card
from lifecycle.backtest_report import Report
from lifecycle.fairness import FairnessReport
from tidegate.version import CODE_VERSION

__all__ = ["check_card", "write_card"]


def check_card(file: Path | None) -> None:
    """Raises Fatal for a file that can not become a card, before hours of work."""
    if file is None:
        return
    if file.suffix.lower() != ".md":
        raise Fatal(f"--card: {file} is no Markdown file.", remedy="let its name end in .md.")
    if not file.parent.is_dir():
        raise Fatal(f"--card: there is no folder {file.parent}.", remedy="create it, or choose another.")


def write_card(
    file: Path,
    pipeline: Pipeline,
    run: BacktestRun,
    report: Report | None,
    *,
    since: int | None,
    fairness: FairnessReport | None,
    warnings: Sequence[str],
) -> list[Path]:
    """Write the card and its plots, which begin with its name; what was written. Raises Fatal without labels."""
    if report is None:
        raise Fatal(
            "--card: there is nothing to tell without labels.",
            remedy="name a file with --labels, or a column of the events with --label-column.",
        )
    made = backtest_card(
        pipeline,
        run,
        report,
        code=CODE_VERSION,
        since=since,
        fairness=fairness,
        warnings=warnings,
        prefix=f"{file.stem}-",
    )
    written = [file, *(file.with_name(name) for name in made.plots)]
    try:
        for path, text in zip(written, [made.markdown, *made.plots.values()], strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Fatal(
            f"--card: {error.filename} can not be written: {error.strerror}.",
            remedy="free space, or choose another place; the verdicts are written.",
        ) from None
    return written
