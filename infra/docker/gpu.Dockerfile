# The recipe on NVIDIA GPUs. Versions that belong together (requirements/gpu-versions.txt says why):
#   CUDA 13.0, torch 2.13.0 (its PyPI build is for CUDA 13), Transformer Engine 2.9 to 2.11 (cu13), vLLM 0.32.0
FROM nvidia/cuda:13.0.1-cudnn-devel-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 PREFECT_SERVER_ANALYTICS_ENABLED=false \
    CUDA_HOME=/usr/local/cuda NVTE_FRAMEWORK=pytorch DEBIAN_FRONTEND=noninteractive

# ninja and cmake: Transformer Engine's torch extension is compiled against the torch of this image
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        cmake g++ git ninja-build python3.12 python3.12-dev python3.12-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

WORKDIR /recipe
COPY requirements/gpu-versions.txt requirements/gpu-versions.txt
RUN python -m pip install "pip==26.3" "setuptools==80.9.0" "wheel==0.48.0" \
    && python -m pip install -c requirements/gpu-versions.txt torch vllm \
    && MAX_JOBS=8 python -m pip install --no-build-isolation -c requirements/gpu-versions.txt \
        "transformer-engine[pytorch,core_cu13]"

COPY pyproject.toml README.md LICENSE pipelines.yaml ./
COPY nanbeige_core nanbeige_core
COPY tasks tasks
COPY flows flows
RUN python -m pip install -c requirements/gpu-versions.txt -e ".[s3]" \
    && python -m nanbeige_core.verify.component \
    && userdel --remove ubuntu \
    && useradd --create-home --uid 1000 recipe \
    && mkdir /data \
    && chown -R 1000 /data /recipe
USER 1000
# the kernels of deduplication and encoding; Numba keeps them beside the modules, where only their owner looks
RUN python -m nanbeige_core.data.compiled
VOLUME /data
ENTRYPOINT ["tini", "-g", "--"]
CMD ["nanbeige", "run", "--profile", "ablation-1b", "--store", "/data/store"]
