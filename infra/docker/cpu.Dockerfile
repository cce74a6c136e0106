# The recipe on CPUs: the laptop profile, data stages, a Prefect worker, or the server (same package, other command).
ARG BASE=python:3.11-slim-bookworm
FROM $BASE

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PREFECT_SERVER_ANALYTICS_ENABLED=false

# gcc: pycosat is compiled at install time; git: a manifest names the commit it was made by
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev tini \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /recipe
COPY requirements/cpu.txt requirements/cpu.txt
RUN python -m pip install "pip==26.3" "setuptools==84.2.1" "wheel==0.48.0" \
    && python -m pip install --no-deps --index-url "$TORCH_INDEX" "$(grep '^torch==' requirements/cpu.txt)" \
    && grep -v '^torch==' requirements/cpu.txt > /tmp/lock.txt \
    && python -m pip install --no-deps -r /tmp/lock.txt

COPY pyproject.toml README.md LICENSE pipelines.yaml ./
COPY nanbeige_core nanbeige_core
COPY tasks tasks
COPY flows flows
# the code sandbox is built once, below the interpreter, which is root's
RUN python -m pip install --no-deps --no-build-isolation -e . \
    && python -m nanbeige_core.verify.component \
    && useradd --create-home --uid 1000 recipe \
    && mkdir /data \
    && chown -R 1000 /data /recipe
USER 1000
# the kernels of deduplication and encoding; Numba keeps them beside the modules, where only their owner looks
RUN python -m nanbeige_core.data.compiled
VOLUME /data
ENTRYPOINT ["tini", "-g", "--"]
CMD ["nanbeige", "run", "--profile", "laptop", "--store", "/data/store"]
