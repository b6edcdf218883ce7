# syntax=docker/dockerfile:1
#
#   docker build -t relaystream .
#
# The container listens on all addresses, and relaystream refuses that as long as anybody could use it: give it
# credentials, or say that open access is meant (then keep the port on loopback or a private network):
#
#   docker run -p 8080:8080 -v "$PWD/config.toml:/etc/relaystream.toml:ro" -v relaystream:/data \
#     -e OPENAI_API_KEY relaystream serve --listen 0.0.0.0:8080 --config /etc/relaystream.toml
#   docker run -p 127.0.0.1:8080:8080 relaystream serve --listen 0.0.0.0:8080 --open
#
# Streams are kept in /data, a volume; without one they go with the container.
#
# Stop it with time for the running streams: docker stop -t 40 (drain_s is 30 by default).

# The version of rust-toolchain.toml.
FROM rust:1.95.0-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin relaystream \
    && install -D target/release/relaystream /out/relaystream

FROM debian:bookworm-slim
# Root certificates, for asking providers over TLS; nothing else is needed.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin relaystream
COPY --from=build /out/relaystream /usr/local/bin/relaystream
# A volume may be mounted as root's (Fly does): it is given to the user that serves, who has no other rights. With
# docker run --user nothing of this happens.
RUN install -d -m 0700 -o 10001 -g 10001 /data \
    && printf '%s\n' '#!/bin/sh' \
        '[ "$(id -u)" = 0 ] || exec relaystream "$@"' \
        'chown 10001:10001 /data' \
        'exec setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs relaystream "$@"' \
        > /usr/local/bin/relaystream-as-user \
    && chmod 0755 /usr/local/bin/relaystream-as-user

WORKDIR /
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["relaystream-as-user"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
