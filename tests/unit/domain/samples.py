"""Pipelines for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

from domain.pipeline import Pipeline
from domain.pipeline_file import parse_pipeline

EXAMPLES = Path(__file__).parents[3] / "examples"

PAYMENTS = """\
pipeline: payments
version: 2
event:
  id: id
  time: at
  key: account
  fields:
    id: {type: string, max_length: 16}
    at: {type: timestamp}
    account: {type: string, sensitive: true, max_length: 16}
    shop: {type: integer, source: Shop Id}
    amount: {type: number, minimum: 0, maximum: 1000}
    online: {type: boolean, required: false}
    tries: {type: integer, required: false, minimum: -5, maximum: 5}
    channel: {type: string, required: false, values: [web, till]}
    card: {type: integer, required: false, sensitive: true}
    opened: {type: timestamp, required: false, unit: s}
features:
  amount: {value: amount}
  shop_count: {entity: shop, aggregate: count, window: 1d}
detectors:
  hst: {kind: half_space_trees}
decision:
  review: {budget: 0.01}
"""


def payments(**event: str) -> Pipeline:
    """The pipeline above with more lines in its event section."""
    extra = "".join(f"  {key}: {value}\n" for key, value in event.items())
    return parse_pipeline(PAYMENTS.replace("event:\n", "event:\n" + extra), "payments.yaml")
