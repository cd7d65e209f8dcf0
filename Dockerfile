# syntax=docker/dockerfile:1
#
#   docker build -t relay .
#   docker run --network host -v relay-state:/var/lib/relay relay
#
# Behind a bridge network publish 443/tcp and 443/udp only: the relay range needs no published port when peers are
# SFUs or other clients of this server, because relay sockets are outbound flows.

ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libcap2-bin libssl-dev pkg-config && rm -rf /var/lib/apt/lists/*
# The distribution's OpenSSL, so that the distribution's patches reach the image.
ENV OPENSSL_NO_VENDOR=1
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
# Cargo.toml names their files.
COPY tests tests
RUN cargo build --release --locked --bin relay \
    && strip --strip-debug target/release/relay \
    && install -D -m 0755 target/release/relay /out/usr/local/bin/relay
# On the host's network ports below 1024 are closed to users, and engines give a user who is not root no capability but
# this way. Permitted, not effective: the program takes it into effect itself, so that it also starts where
# `--cap-drop ALL` or no-new-privileges withhold it.
RUN setcap cap_net_bind_service=+p /out/usr/local/bin/relay
COPY config/relay.toml /out/etc/relay/relay.toml
# The state directory exists and belongs to the user the server runs as.
RUN install -d -m 0700 -o 65532 -g 65532 /out/var/lib/relay

FROM ${RUN_IMAGE}
# For DTLS.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libssl3 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out /
# No name, no shell, no home.
USER 65532:65532
ENV STATE_DIRECTORY=/var/lib/relay
VOLUME ["/var/lib/relay"]
EXPOSE 3478/tcp 3478/udp 5349/tcp 5349/udp 443/tcp 443/udp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/relay"]
CMD ["--config", "/etc/relay/relay.toml"]
