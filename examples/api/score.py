"""The API with the Python client: score a payment, act on the verdict, say what it turned out to be.

Needs a running service (`tidegate dev`); TIDEGATE_API and TIDEGATE_KEY say where and who.
"""
# ruff: noqa: T201  (it is made to be read in a terminal)

from __future__ import annotations

import os
import sys
import uuid
from datetime import UTC, datetime

from domain.verdict import DecisionName
from tidegate.client import Client, Label
from tidegate.client_errors import Busy, Invalid, Unreachable


def main() -> int:
    """Exit code 0 when the payment may go on, 3 when it must not, 4 when nobody knows."""
    url = os.environ.get("TIDEGATE_API", "http://127.0.0.1:8080")
    payment = {
        "transaction_id": f"t-{uuid.uuid4().hex}",
        "event_time": datetime.now(UTC).isoformat(),
        "account_id": "4929-2",
        "merchant_id": "m-7",
        "amount": 99.0,
    }
    with Client(url, key=os.environ.get("TIDEGATE_KEY")) as tidegate:
        try:
            scored = tidegate.score(payment, deadline_ms=int(os.environ.get("DEADLINE_MS", "1000")))
        except Invalid as error:
            print(f"{error.field}: {error.reason}. {error.problem.remedy}", file=sys.stderr)
            return 2
        except (Busy, Unreachable) as error:
            # decide what that means to you: here the payment waits. It can be scored again, with the same id
            print(error, file=sys.stderr)
            return 4
        if scored.verdict is None:
            return 4  # written; tidegate.wait(scored.id, 10) finds the verdict
        verdict = scored.verdict
        print(f"{verdict.id}: {verdict.decision}, score {verdict.score}")
        for reason in verdict.reasons:
            print(f"  {reason.text}")
        # days later, the customer's bank says that it was fraud
        tidegate.label(Label(id=verdict.id, label=1, source="chargeback"))
        return 3 if verdict.decision is DecisionName.BLOCK else 0


if __name__ == "__main__":
    sys.exit(main())
