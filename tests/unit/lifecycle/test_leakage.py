"""Features made from the label are named with a reason; honest and merely good ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from domain.batch import Floats
from domain.pipeline_file import parse_pipeline
from lifecycle.leakage import Suspicion, find_leaks, undelayed_rates
from tests.unit.domain.samples import PAYMENTS

N = 20_000


def training_set(seed: int) -> tuple[Floats, dict[str, Floats]]:
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(N) < 0.01, 1.0, 0.0)
    noise = rng.normal(size=N)
    columns = {
        "honest": noise,
        "good": noise + 3.0 * y,
        "constant": np.ones(N),
        "often_missing": np.where(rng.random(N) < 0.4, np.nan, noise),
        "copy": 1.0 - y,
        "refund": np.where(y == 1.0, noise - 50.0, noise),
        "closed_reason": np.where(y == 1.0, 7.0, np.floor(np.abs(noise) * 1e6)),
        "case_number": np.where(y == 1.0, np.abs(noise), np.nan),
        "infinite": np.where(y == 1.0, np.inf, noise),
    }
    return y, columns


@pytest.mark.parametrize("seed", [1, 2])
def test_leaks_are_named_and_the_rest_is_not(seed: int) -> None:
    y, columns = training_set(seed)
    y[::11] = np.nan
    leaks = find_leaks(np.column_stack(list(columns.values())), y, list(columns))
    assert {leak.feature: leak.suspicion for leak in leaks} == {
        "copy": Suspicion.EQUALS_LABEL,
        "refund": Suspicion.SEPARATES,
        "closed_reason": Suspicion.CONSTANT_GIVEN_LABEL,
        "case_number": Suspicion.MISSING_TELLS,
        "infinite": Suspicion.CONSTANT_GIVEN_LABEL,
    }
    for leak in leaks:
        assert leak.feature in leak.text
        assert leak.auc > 0.999


def test_few_labels_name_nothing_and_wrong_shapes_are_refused() -> None:
    y, columns = training_set(3)
    x = np.column_stack(list(columns.values()))
    few = np.where(np.cumsum(y) > 19, np.nan, y)
    assert find_leaks(x, few, list(columns)) == ()
    assert find_leaks(x, np.full(N, np.nan), list(columns)) == ()
    with pytest.raises(ValueError, match="names"):
        find_leaks(x, y, ["one"])


def test_rates_without_delay_and_what_is_made_from_them_are_named() -> None:
    extra = (
        "  early: {entity: shop, aggregate: rate, of: label, window: 7d}\n"
        "  right: {entity: shop, aggregate: rate, of: label, window: 7d, delay: 7d}\n"
        '  twice: {expression: "2.0 * early"}\n'
        '  fine: {expression: "2.0 * right"}\n'
    )
    text = PAYMENTS.replace("detectors:", extra + "detectors:", 1)
    leaks = undelayed_rates(parse_pipeline(text, "p.yaml"))
    assert [(leak.feature, leak.suspicion) for leak in leaks] == [
        ("early", Suspicion.LABELS_TOO_EARLY),
        ("twice", Suspicion.LABELS_TOO_EARLY),
    ]
