"""Results of one suite go among the stored ones of the others, and the page tells all of them."""

from __future__ import annotations

from typing import Any

from benchmarks.quality import merged, page


def record(suite: str, contestant: str, precision: float, **more: Any) -> dict[str, Any]:
    figures = {"auc": 0.9, "average_precision": precision, "card_precision": 0.3}
    spreads = {f"{name}_spread": 0.001 for name in figures}
    return (
        {"suite": suite, "contestant": contestant, "brier": None, "calibration_error": None}
        | figures
        | spreads
        | more
    )


def test_what_was_measured_takes_the_place_of_the_same_suite_only() -> None:
    stored = {
        "seeds": 5,
        "handbook": [
            record("exact split", "service", 0.72),
            record("stream, recipe without labels", "service", 0.1),
        ],
        "adbench": [{"file": "http"}],
    }
    fresh = {"seeds": 5, "handbook": [record("stream, recipe without labels", "hst", 0.3333, brier=0.00123)]}
    result = merged(stored, fresh)
    assert [(one["suite"], one["contestant"]) for one in result["handbook"]] == [
        ("exact split", "service"),
        ("stream, recipe without labels", "hst"),
    ]
    assert result["adbench"] == [{"file": "http"}]
    told = page({"seeds": 5, "handbook": result["handbook"]})
    assert "| stream, recipe without labels | hst | 0.9000 ± 0.0010 | 0.3333 ± 0.0010 |" in told
    assert "0.00123" in told
    assert "0.7200" in told
