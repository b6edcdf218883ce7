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

USER 10001:10001
WORKDIR /
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["relaystream"]
CMD ["serve", "--listen", "0.0.0.0:8080"]
