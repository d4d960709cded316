# One image for all processes: `docker run IMAGE worker`, `archiver`, `joiner`, `api`, ...
# Two stages: packages are installed with uv from the lock file, the result runs without any build tool.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ENV UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/tidegate
WORKDIR /src
RUN --mount=type=cache,target=/root/.cache/pip pip install "uv>=0.8"
# Dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-install-project
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-editable

FROM ${PYTHON}
RUN useradd --system --uid 10001 --home-dir /var/lib/tidegate --create-home tidegate
COPY --from=build /opt/tidegate /opt/tidegate
COPY examples /etc/tidegate/examples
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/lib/tidegate/numba \
    TIDEGATE_PIPELINE=/etc/tidegate/examples/payments/pipeline.yaml
USER tidegate
WORKDIR /var/lib/tidegate
# A volume mounted here belongs to our user.
RUN mkdir --mode 700 state
# Compiles the kernels now, so that no process does at its start (for this kind of processor; others compile anew).
RUN python -c "import os; from tidegate.loading import load; from tidegate.warm import warm_up; \
    warm_up(load(os.environ['TIDEGATE_PIPELINE']))"
ENTRYPOINT ["tidegate"]
CMD ["--help"]
