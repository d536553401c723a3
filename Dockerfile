# WakeGate as an image: `docker build --target cpu .` (or cuda-llamacpp, or vllm). docs/how-to/container.md says how to
# run them and why they are as they are.
#
# A target is two stages on one base: the first makes /opt/wakegate (a virtual environment with what constraints.txt
# pins, llama-cpp-python compiled where it is the engine), the second is that base with this folder in it. The steps are
# deploy/container/build.sh and runtime.sh. No ARG holds a secret: a registry with a password comes as
# `--secret id=pip.conf,src=…`, which is in no layer and no history.
#
# To build on something else, or to pin a digest: --build-arg PYTHON_IMAGE=python:3.13.12-slim-bookworm@sha256:…
# What a base must have: bash 5.1, setpriv, Python 3.11 to 3.14 (or apt-get, which installs it).

ARG PYTHON_IMAGE=python:3.13.12-slim-bookworm
ARG CUDA_BUILD_IMAGE=nvidia/cuda:12.9.1-devel-ubuntu24.04
ARG CUDA_IMAGE=nvidia/cuda:12.9.1-runtime-ubuntu24.04
ARG VLLM_IMAGE=vllm/vllm-openai:v0.33.0

# --- What is built -----------------------------------------------------------------------------------------------------

FROM ${PYTHON_IMAGE} AS cpu-build
WORKDIR /src
# Before the code: a change of ours does not compile llama.cpp again.
COPY constraints.txt ./
COPY deploy/container/build.sh deploy/container/
RUN --mount=type=cache,id=wakegate-wheels,target=/var/cache/wakegate \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    deploy/container/build.sh llama cpu
COPY pyproject.toml README.md start.sh ./
COPY gateway gateway
COPY health health
COPY scripts/make_demo_model.py scripts/
COPY deploy/container deploy/container
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf deploy/container/build.sh install llama

FROM ${CUDA_BUILD_IMAGE} AS cuda-build
# Turing, Ampere (A100; A10, 3090), Ada (L4, 4090), Hopper, Blackwell (B200; 5090). One less is minutes and megabytes less.
ARG CUDA_ARCHITECTURES="75-real;80-real;86-real;89-real;90-real;100-real;120"
WORKDIR /src
COPY constraints.txt ./
COPY deploy/container/build.sh deploy/container/
RUN --mount=type=cache,id=wakegate-wheels,target=/var/cache/wakegate \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    deploy/container/build.sh llama cuda "${CUDA_ARCHITECTURES}"
COPY pyproject.toml README.md start.sh ./
COPY gateway gateway
COPY health health
COPY scripts/make_demo_model.py scripts/
COPY deploy/container deploy/container
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf deploy/container/build.sh install llama

FROM ${VLLM_IMAGE} AS vllm-build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md start.sh ./
COPY gateway gateway
COPY health health
COPY scripts/make_demo_model.py scripts/
COPY deploy/container deploy/container
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf deploy/container/build.sh install

# --- What is shipped: three bases, and the same from there on (tests/deploy/test_dockerfile.py) ---------------------------

FROM ${PYTHON_IMAGE} AS cpu
COPY --from=cpu-build /opt/wakegate /opt/wakegate
RUN /opt/wakegate/share/runtime.sh llama
# `container`: how the gateway knows where it is, also where no runtime leaves a file. DATA_DIR is not here, so that the
# platform's volume is found.
ENV container=oci WAKEGATE_PYTHON=/opt/wakegate/bin/python WAKEGATE_DEMO_MODEL=/opt/wakegate/share/demo.gguf \
    HOME=/home/wakegate
ARG VERSION=0.1.0 REVISION=unknown SOURCE=unknown
LABEL org.opencontainers.image.title="WakeGate" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.description="A two-port gateway for scale-to-zero LLM serving, with llama.cpp on the CPU"
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
# Loading may take half an hour (START_MAX), and is no illness.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["/opt/wakegate/bin/python", "-I", "-S", "/opt/wakegate/share/healthcheck.py"]
ENTRYPOINT ["/usr/local/bin/wakegate-entrypoint"]

FROM ${CUDA_IMAGE} AS cuda-llamacpp
COPY --from=cuda-build /opt/wakegate /opt/wakegate
RUN /opt/wakegate/share/runtime.sh llama
ENV container=oci WAKEGATE_PYTHON=/opt/wakegate/bin/python WAKEGATE_DEMO_MODEL=/opt/wakegate/share/demo.gguf \
    HOME=/home/wakegate
ARG VERSION=0.1.0 REVISION=unknown SOURCE=unknown
LABEL org.opencontainers.image.title="WakeGate" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.description="A two-port gateway for scale-to-zero LLM serving, with llama.cpp on CUDA"
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["/opt/wakegate/bin/python", "-I", "-S", "/opt/wakegate/share/healthcheck.py"]
ENTRYPOINT ["/usr/local/bin/wakegate-entrypoint"]

FROM ${VLLM_IMAGE} AS vllm
COPY --from=vllm-build /opt/wakegate /opt/wakegate
RUN /opt/wakegate/share/runtime.sh
ENV container=oci WAKEGATE_PYTHON=/opt/wakegate/bin/python HOME=/home/wakegate
ARG VERSION=0.1.0 REVISION=unknown SOURCE=unknown
LABEL org.opencontainers.image.title="WakeGate" org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" org.opencontainers.image.source="${SOURCE}" \
    org.opencontainers.image.description="A two-port gateway for scale-to-zero LLM serving, with vLLM"
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["/opt/wakegate/bin/python", "-I", "-S", "/opt/wakegate/share/healthcheck.py"]
ENTRYPOINT ["/usr/local/bin/wakegate-entrypoint"]
