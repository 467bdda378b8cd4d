# The image in which Bash scripts run. Two stages, so that no layer still holds what the build step removed.
#
#   docker build -f Dockerfile.bash -t cronium/runner:bash-alpine .            on Alpine
#   ../scripts/build-images.sh                                      the same, or on a base it makes from Debian's packages
#
# The agent starts a container of it as `sh -s` and sends the script through standard input; the root file system
# is read-only then, /workspace and /tmp are sized tmpfs.
ARG BASE=alpine:3.22
FROM ${BASE} AS build
LABEL cronium.stage=build
COPY prepare.sh /run/prepare.sh
RUN sh /run/prepare.sh bash coreutils perl curl jq tini tzdata ca-certificates -- sh bash perl curl jq tini \
    && rm -f /run/prepare.sh

FROM scratch
COPY --from=build / /

LABEL org.opencontainers.image.title="cronium runner: Bash" \
      org.opencontainers.image.description="Runs one Bash job of cronium-agent as uid 1000, without a package manager or setuid files" \
      org.opencontainers.image.vendor="Cronium" \
      org.opencontainers.image.licenses="LicenseRef-Cronium"

ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    HOME=/workspace
WORKDIR /workspace
USER 1000:1000
ENTRYPOINT ["tini", "--"]
CMD ["sh"]
