# isoVI in a container, for the CPU:
#   docker build --tag isovi .
#   docker run --rm --volume "$PWD:/data" isovi fit outs --out run --holdout 0.25
#
# For NVIDIA GPUs, with the CUDA version that the driver supports, and `docker run --gpus all`:
#   docker build --tag isovi:cuda --build-arg TORCH=https://download.pytorch.org/whl/cu128 .
#
# Files are written as root unless you add: --user "$(id -u):$(id -g)"

FROM python:3.13-slim

ARG TORCH=https://download.pytorch.org/whl/cpu
# Extras of isoVI: SpatialData, Visium HD and Xenium; Leiden
ARG EXTRAS=readers,leiden

ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    # caches of numba and matplotlib, wherever the container runs and whoever runs it
    NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp

WORKDIR /build
COPY constraints.txt ./
RUN python -m pip install --constraint constraints.txt torch --index-url "$TORCH"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m pip install --constraint constraints.txt ".[$EXTRAS]" && rm -r /build/*

WORKDIR /data
ENTRYPOINT ["isovi"]
CMD ["--help"]
