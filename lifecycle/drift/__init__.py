"""Drift: what of the verdicts no longer looks as in its reference, at a declared rate of false alarms.

Pure: no Kafka, no Redis, no clock. Times come from the events, randomness from a seed.

    settings     how events are put together: cells, seasons, reference, windows
    histogram    bins and mergeable counts, PSI and KS on them
    expectation  what like hours of the reference lead one to expect
    sequential   ADWIN, Page-Hinkley and KSWIN (River's) behind one protocol
    streams      stationary streams resampled from the reference
    paths        the same monitors over many resampled streams at once
    calibration  thresholds from them
    gathering    bins and reference from a running stream
    watch        one reference, its monitors, alarms
    bank         the columns of one cadence, from first event to alarm and to the next reference
    state        a bank as bytes
    pipeline     all banks of a pipeline: verdicts and labels in, alarms out
    progress     how far event time has come
    report       what ``GET /v1/drift`` answers
"""
