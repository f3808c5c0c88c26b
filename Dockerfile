# syntax=docker/dockerfile:1
FROM rust:1-slim-bookworm AS build
# `docker build --build-arg GUIDED=yes .` builds Weir as it is to be released: twice, with PostgreSQL to work against in between.
ARG GUIDED=no
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY scripts/setup scripts/release scripts/
COPY src src
COPY benches benches
COPY examples/flask/sample.sql examples/flask/
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    if [ "$GUIDED" = yes ]; then scripts/release && cp target/guided/weir /weir; \
    else cargo build --release --locked --bin weir && cp target/release/weir /weir; fi

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin weir
COPY --from=build /weir /usr/local/bin/weir
USER 10001
ENV WEIR_LISTEN=0.0.0.0:6432 WEIR_HTTP=0.0.0.0:6433
EXPOSE 6432 6433
# SSLRequest, which any PostgreSQL server answers with S or N before it asks who is there: it needs no client program,
# and no HTTP switched on. A listener elsewhere than on port 6432 needs a check of its own.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/6432 && printf '\\0\\0\\0\\10\\4\\322\\26\\57' >&3 && head -c 1 <&3 | grep -q '[SN]'"]
ENTRYPOINT ["weir"]
CMD ["serve"]
