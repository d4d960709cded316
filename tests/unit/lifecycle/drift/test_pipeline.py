from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from domain.drift_record import DriftAlarm, DriftState
from domain.label_codec import JoinedLabel
from domain.verdict import Verdict
from lifecycle.drift.pipeline import PipelineDrift, columns_of
from lifecycle.drift.progress import Progress
from lifecycle.drift.report import report
from stream.monitor_records import MonitorCodec
from tests.unit.lifecycle.drift.pipelines import MINUTE, START, labels, pipeline, settings, verdicts

PIPELINE = pipeline()
CODEC = MonitorCodec(PIPELINE)
REFERENCE_DONE = 27
"""Minutes: three of warm-up, 24 of reference."""


def feed(
    drift: PipelineDrift, given: Sequence[Verdict], known: Sequence[JoinedLabel] = ()
) -> list[DriftAlarm]:
    rows = [CODEC.verdict(msgspec.json.encode(one)) for one in given]
    if rows:
        drift.verdicts(*CODEC.columns(rows))
    drift.labels(known)
    last = max((one.event_time for one in given), default=0)
    return drift.close(last, last)


def test_an_alarm_says_what_moved_by_how_much_since_when_and_shows_it() -> None:
    drift = PipelineDrift(PIPELINE, settings())
    assert feed(drift, verdicts(PIPELINE, range(40))) == []
    alarms = feed(drift, verdicts(PIPELINE, range(40, 46), shift=3.0))
    assert [alarm.column for alarm in alarms] == ["feature:amount"]
    [alarm] = alarms
    assert alarm.window == (alarm.raised_at - 4 * MINUTE, alarm.raised_at)
    assert START + 40 * MINUTE < alarm.raised_at <= START + 43 * MINUTE
    assert abs(alarm.since - (START + 40 * MINUTE)) <= 2 * MINUTE
    assert alarm.shift is not None
    assert alarm.shift > 0.1
    assert {"psi", "ks"} & {monitor.monitor for monitor in alarm.monitors}
    evidence = alarm.evidence
    assert len(evidence.current) == len(evidence.reference) == len(evidence.edges) + 1
    assert sum(evidence.reference) + evidence.reference_missing == pytest.approx(1.0)
    assert evidence.current[-1] > evidence.reference[-1] + 0.1
    assert evidence.events == 80
    assert "feature:amount moved" in alarm.text
    # a reader of the topic gets the same back
    assert msgspec.json.decode(msgspec.json.encode(alarm), type=DriftAlarm) == alarm


def test_stopped_at_any_minute_it_tells_the_same_alarms_and_none_twice() -> None:
    given = [*verdicts(PIPELINE, range(36)), *verdicts(PIPELINE, range(36, 44), shift=3.0)]
    expected = []
    whole = PipelineDrift(PIPELINE, settings())
    told = []
    drift = PipelineDrift(PIPELINE, settings())
    for minute in range(44):
        part = given[minute * 20 : minute * 20 + 20]
        expected += feed(whole, part)
        if minute % 3 == 0:
            again = PipelineDrift(PIPELINE, settings())
            again.restore(drift.snapshot())
            drift = again
        told += feed(drift, part)
    assert told == expected
    assert len({alarm.id for alarm in told}) == len(told) >= 1
    assert drift.snapshot() == whole.snapshot()


def test_state_of_another_pipeline_or_of_other_settings_is_refused() -> None:
    saved = PipelineDrift(PIPELINE, settings()).snapshot()
    other = msgspec.structs.replace(PIPELINE, digest="other")
    for stranger in (PipelineDrift(other, settings()), PipelineDrift(PIPELINE, settings(seed=5))):
        with pytest.raises(ValueError, match="another pipeline"):
            stranger.restore(saved)
    with pytest.raises(ValueError, match="can not be read"):
        PipelineDrift(PIPELINE, settings()).restore(saved[:10])


def test_the_error_of_frauds_is_judged_once_mature_and_reversals_never_counted() -> None:
    drift = PipelineDrift(PIPELINE, settings())
    alarms = feed(drift, verdicts(PIPELINE, range(60)), labels(range(45)))
    assert alarms == []
    bank = drift.banks["labels"]
    assert bank.watch is not None
    # frauds now score low; the labels of the first three are taken back again
    wrong = labels(range(45, 52), score=0.3)
    taken_back = [msgspec.structs.replace(one, previous=1, label=0) for one in wrong[:3]]
    assert feed(drift, [], [*wrong, *taken_back]) == []
    assert feed(drift, verdicts(PIPELINE, range(60, 67))) != []
    [alarm] = [alarm for alarm in drift.alarms if alarm.column == "error"]
    assert alarm.raised_at <= START + (66 - 10) * MINUTE
    assert alarm.shift is not None
    assert alarm.shift > 0.1
    assert bank.watch.ring[:, 0].sum() <= 40
    # what comes after its minute was judged is left out and told
    before = bank.late
    drift.labels(labels(range(45, 46)))
    assert bank.late == before + 10


def test_the_report_shows_phases_values_thresholds_and_history() -> None:
    drift = PipelineDrift(PIPELINE, settings())
    state = report(drift, 5)
    assert [bank.phase for bank in state.banks] == ["waiting", "waiting"]
    feed(drift, verdicts(PIPELINE, range(2)))
    assert report(drift, 5).banks[0].phase == "warming_up"
    feed(drift, verdicts(PIPELINE, range(2, 20)))
    [traffic, _] = report(drift, 5).banks
    assert (traffic.phase, traffic.gathered, traffic.needed) == ("reference", 16, 24)
    feed(drift, verdicts(PIPELINE, range(20, 34)))
    feed(drift, verdicts(PIPELINE, range(34, 40), shift=3.0))
    state = msgspec.json.decode(msgspec.json.encode(report(drift, 5)), type=DriftState)
    [traffic, _] = state.banks
    assert traffic.phase == "watching"
    assert traffic.reference_window == (START + 3 * MINUTE, START + 27 * MINUTE)
    assert [column.column for column in traffic.columns] == list(columns_of(PIPELINE))
    assert len(traffic.history_cells) == 39 - REFERENCE_DONE
    assert traffic.history_cells[-1] == START + 38 * MINUTE
    amount = traffic.columns[0]
    for monitor in amount.monitors:
        assert len(amount.history[monitor.monitor]) == len(traffic.history_cells)
    psi = amount.monitors[0]
    assert psi.statistic is not None
    assert psi.statistic > psi.threshold
    [alarm] = state.alarms
    assert amount.silent_until == alarm.raised_at + 60 * MINUTE
    assert traffic.declared == pytest.approx(60.0 * 4 / 5)


def test_repetitions_and_strangers_are_no_traffic() -> None:
    [one] = verdicts(PIPELINE, range(1), each=1)
    row = CODEC.verdict(msgspec.json.encode(one))
    assert CODEC.counts(row)
    encoded = msgspec.to_builtins(one)
    for change in ({"flags": ["duplicate"]}, {"versions": {**encoded["versions"], "pipeline_digest": "x"}}):
        assert not CODEC.counts(CODEC.verdict(msgspec.json.encode({**encoded, **change})))
    unknown = CODEC.verdict(msgspec.json.encode({**encoded, "score": None, "features": {"amount": None}}))
    _, _, _, x = CODEC.columns([unknown])
    assert x[0, :3].tolist() == pytest.approx([float("nan")] * 3, nan_ok=True)


def test_event_time_waits_for_the_slowest_that_has_more_to_read() -> None:
    progress = Progress(range(2))
    assert progress.value() is None
    progress.seen(0, 50)
    progress.at_end(0)
    assert progress.value() is None
    progress.seen(1, 10)
    assert progress.value() == 10
    progress.at_end(1)
    assert progress.value() == 50
    progress.seen(1, 20)
    assert progress.value() == 20
    progress.seen(0, 60)
    assert progress.value() == 20
    revived = Progress(range(2), progress.times)
    revived.at_end(0)
    revived.at_end(1)
    assert revived.value() == 60
