"""Cards tell what they are given, the same each time, and nothing in them can end a table or begin a tag."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np

from domain.pipeline_retraining import GateRules
from lifecycle.evaluation import DAY, Interval, calibration
from lifecycle.fairness import fairness
from lifecycle.gate import GateSlice, judge
from lifecycle.model_card import Facts, Metric, card, gate_sections
from lifecycle.plots import precision_recall, precision_recall_svg, reliability_svg

N = 2_000


def facts(**changed: object) -> Facts:
    rng = np.random.default_rng(0)
    labels = rng.random(N) < 0.1
    score = labels + rng.normal(0, 1, N)
    probability = np.clip(labels * 0.5 + rng.random(N) * 0.3, 0, 1)
    codes = (np.arange(N) % 2).astype(np.int64)
    given: dict[str, object] = {
        "title": "Model m-0123456789ab",
        "summary": "A challenger.",
        "data": [("rows", "2,000")],
        "lineage": [("pin", "verdicts@3+labels@2")],
        "metrics": [
            Metric("average precision", 0.5, Interval(0.4, 0.6, 0.9), {"champion": 0.3, "random": np.nan})
        ],
        "labels": labels,
        "curves": [
            precision_recall("challenger", score, labels),
            precision_recall("champion", -score, labels),
        ],
        "probability": probability,
        "calibration": calibration(probability, labels),
        "fairness": fairness(
            "region", ["a|b", "<b>"], codes, score > 1, labels.astype(np.float64), np.arange(N)
        ),
        "sections": gate_sections(
            judge(
                GateSlice(labels, np.arange(N) * DAY // 100, score, probability, -score, "own", N, 200, 0.05),
                GateRules(replicates=100),
                seed=0,
            )
        ),
        "limits": ["It knows nothing of tomorrow."],
    }
    return Facts(**{**given, **changed})  # type: ignore[arg-type]


def test_the_card_tells_everything_and_shows_its_plots() -> None:
    made = card(facts(), prefix="x-")
    for part in (
        "# Model m-0123456789ab",
        "verdicts@3+labels@2",
        "| average precision | 0.500 (0.400 to 0.600) | 0.300 |  |",
        "bootstrap intervals, 90%",
        "Brier score",
        "By `region`",
        "| champion | passed |",
        "- It knows nothing of tomorrow.",
    ):
        assert part in made.markdown, part
    assert set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", made.markdown)) == set(made.plots)
    assert all(name.startswith("x-") for name in made.plots)
    assert card(facts(), prefix="x-") == made


def test_groups_come_from_events_and_break_nothing() -> None:
    text = card(facts()).markdown
    assert "a\\|b" in text
    assert "<b>" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)


def test_what_is_not_known_is_said() -> None:
    text = card(facts(fairness=None, calibration=None, probability=None)).markdown
    assert "No group was declared" in text
    assert "## Calibration" not in text
    bare = card(facts(labels=np.zeros(N, dtype=np.bool_), calibration=None))
    assert not bare.plots


def test_plots_are_well_formed_and_show_the_numbers() -> None:
    labels = np.array([True, False, True, False])
    curve = precision_recall("m", np.array([0.9, 0.8, 0.7, np.nan]), labels)
    assert curve.x.tolist() == [0.5, 1.0]
    assert curve.y.round(3).tolist() == [1.0, 0.667]
    for svg in (
        precision_recall_svg([curve], 0.5),
        reliability_svg(np.array([0.1, 0.2, 0.9, np.nan]), labels, bins=2),
        precision_recall_svg([precision_recall("<none>", np.zeros(4), np.zeros(4, dtype=np.bool_))], 0.0),
    ):
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert len(svg) < 20_000


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    labels = np.arange(50_000) % 2 == 0
    curve = precision_recall("m", np.random.default_rng(1).random(50_000), labels)
    assert len(curve.x) <= 200
    assert curve.x[-1] == 1.0
