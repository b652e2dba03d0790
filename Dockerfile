# Two images from one source: `docker build --target operator .` and `docker build --target worker .`
#
# Layers go from what changes least to what changes most, so a code change rebuilds and ships only the last one: the
# project's own few files. Builds with BuildKit and with the classic builder alike.
ARG OPERATOR_BASE=python:3.12-slim
ARG WORKER_BASE=pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime


# --- the wheel of this project
FROM ${OPERATOR_BASE} AS wheel
WORKDIR /src
# Environments hold no pip of their own: the base's installs into them, and some bases could not make one with pip.
RUN python3 -m venv --without-pip /opt/build
COPY constraints/build.txt constraints/
RUN pip --python /opt/build install --no-cache-dir --no-deps --require-hashes -r constraints/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY operator operator
COPY worker worker
# The same source gives the same wheel, so what follows stays cached.
RUN pip --python /opt/build wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .


# --- everything outside a training pod
FROM ${OPERATOR_BASE} AS operator
LABEL org.opencontainers.image.title="Trainwright operator" \
      org.opencontainers.image.description="Trains PyTorch models on Kubernetes with one TrainingJob, whose status shows progress, metrics and the cause of every failure." \
      org.opencontainers.image.licenses="Apache-2.0"
# Bytecode is compiled at build time: the root file system is read-only when this runs. LOGNAME: the user has a number only,
# and libraries that ask for a name would fail.
ENV PATH=/opt/trainwright/bin:$PATH HOME=/tmp TMPDIR=/tmp LOGNAME=trainwright PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv --without-pip /opt/trainwright
COPY constraints/operator.txt /opt/trainwright/
RUN pip --python /opt/trainwright install --no-cache-dir --no-deps --require-hashes --compile -r /opt/trainwright/operator.txt
COPY --from=wheel /dist /dist
RUN pip --python /opt/trainwright install --no-cache-dir --no-deps --no-index --compile /dist/*.whl
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["trainwright", "operator"]


# --- everything inside a training pod
FROM ${WORKER_BASE} AS worker
LABEL org.opencontainers.image.title="Trainwright worker" \
      org.opencontainers.image.description="Trains, checkpoints and reports: what runs in a Trainwright training pod." \
      org.opencontainers.image.licenses="Apache-2.0"
# Root while building, whatever user the base ends with.
USER root
# torch writes caches below HOME and TMPDIR: both are the one place that every pod can write to.
ENV PATH=/opt/trainwright/bin:$PATH HOME=/tmp TMPDIR=/tmp LOGNAME=trainwright PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The base brings torch for its CUDA; the environment sees it and adds the rest at pinned versions.
RUN python3 -m venv --without-pip --system-site-packages /opt/trainwright
COPY constraints/worker.txt /opt/trainwright/
# --ignore-installed: a base's own copy of a package, at another version, is shadowed, never taken for the pinned one.
RUN pip --python /opt/trainwright install --no-cache-dir --no-deps --require-hashes --ignore-installed --compile -r /opt/trainwright/worker.txt
COPY --from=wheel /dist /dist
RUN pip --python /opt/trainwright install --no-cache-dir --no-deps --no-index --compile /dist/*.whl
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["python", "-m", "trainwright_worker"]
