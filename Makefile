# Every target works on a fresh clone: `make setup` is part of it. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV := deploy/uv
RUN := $(UV) run --no-sync
PYTEST := $(RUN) pytest -p no:randomly --durations=10
SUITES := tests/unit tests/contract tests/integration tests/system

.PHONY: help setup packages demo test test-unit test-compose up check bench-kernels bench-throughput bench-quality bench-drift bench-api loop chaos chaos-selftest

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

packages:
	@deploy/setup

setup: ## Python packages, redis-server and Apache Kafka, as far as they are missing
	@deploy/setup --services

demo: packages ## events with known fraud through all processes, watched in the terminal
	@$(RUN) tidegate demo

test: setup ## the whole suite, against a real Kafka and a real Redis (not: test-compose)
	@$(RUN) python -m tests.services
	$(PYTEST) -m "not compose" $(SUITES)

test-unit: packages ## what needs no service, in under a minute
	$(PYTEST) tests/unit

test-compose: packages ## docker compose up, down and up again
	$(PYTEST) -m compose tests/system/test_compose.py

up: ## everything in containers, at http://127.0.0.1:8080; `docker compose down` ends it
	@deploy/env
	docker compose up --detach --wait --build

chaos: setup ## workers, Kafka and Redis killed, stopped and robbed of data; nothing may be lost, doubled or wrong
	@$(RUN) python -m tests.chaos --json benchmarks/results/chaos.json

chaos-selftest: setup ## exactly-once broken on purpose: `make chaos` must notice each time
	@$(RUN) python -m tests.chaos --selftest

check: packages ## formatting, lint, types, layers, lock file
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(UV) lock --check

loop: setup ## the closed loop on a stream whose fraud changes: alarm, training, proof, promotion, rollback
	@$(RUN) python -m benchmarks.loop

bench-kernels: packages ## our kernels beside River and scikit-learn, in one run
	$(RUN) python -m benchmarks.kernels

bench-rules: packages ## what 0, 10, 100 and 500 rules cost an event; three minutes
	$(RUN) python -m benchmarks.rules

bench-throughput: setup ## the worker beside a bare transactional passthrough, in one run
	$(RUN) tidegate bench throughput --events 200000 --json

bench-quality: packages ## detection quality beside published numbers, over five seeds; takes about an hour
	$(RUN) tidegate bench quality

bench-drift: packages ## drift monitors: detection delay against false alarms, beside a dummy; ten minutes
	$(RUN) python -m benchmarks.drift

bench-api: setup ## p50 and p99 of the API over real HTTP at 200 requests a second, with Kafka, Redis and a worker
	$(RUN) python -m benchmarks.api --out benchmarks/results/api.json
