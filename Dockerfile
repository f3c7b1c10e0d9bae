# The base of both stages: any image with Python 3.11 or later, its venv module, and the system's CA
# certificates, for example a Debian with python3, python3-venv and ca-certificates.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Unset unless given: a package mirror, and the CA bundle (a path inside the base image) that vouches for it.
ARG PIP_INDEX_URL
ARG PIP_CERT
ARG UV_VERSION=0.13.9
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /build && /build/bin/pip install --quiet --only-binary=:all: "uv==${UV_VERSION}"
WORKDIR /src
COPY pyproject.toml uv.lock ./
# pip rather than `uv sync`: it takes the locked versions and hashes, but from whichever index it is given.
RUN /build/bin/uv export --quiet --frozen --no-dev --no-emit-project --output-file /build/requirements.txt \
    && python3 -m venv --without-pip /opt/datastorage \
    && /build/bin/pip --python /opt/datastorage/bin/python install --quiet \
        --require-hashes --only-binary=:all: --no-deps --requirement /build/requirements.txt
COPY README.md ./
COPY operator operator
# GET /version names it.
ARG REVISION=unknown
RUN printf '%s' "${REVISION}" > operator/datastorage/revision.txt
RUN /build/bin/pip --python /opt/datastorage/bin/python install --quiet --no-deps .

FROM ${BASE_IMAGE}
COPY --from=build /opt/datastorage /opt/datastorage
# pip has compiled the bytecode; the root filesystem is meant to be read-only. The numeric user, which may be
# any other at run time, has no entry in /etc/passwd: its home and its name, which Kopf asks for, are given here.
ENV PATH=/opt/datastorage/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    USER=datastorage \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kubernaut-datastorage" \
      org.opencontainers.image.description="Archives AuditRecord and ActionTrace resources into PostgreSQL and clears them from etcd" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
EXPOSE 8080 9090
ENTRYPOINT ["datastorage"]
CMD ["run"]
