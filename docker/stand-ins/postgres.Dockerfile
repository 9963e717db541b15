# In place of postgres, of which it takes the same variables: Debian's package.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
# The version is whatever Debian's release has.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends postgresql && rm -rf /var/lib/apt/lists/*
ENV LANG=C.UTF-8
COPY docker/stand-ins/postgres.sh /
RUN install -d -o postgres -g postgres /var/lib/postgresql/data
# hadolint ignore=DL3066
USER postgres
ENTRYPOINT ["bash", "/postgres.sh"]
