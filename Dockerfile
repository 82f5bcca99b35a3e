# Serving only: the base package without training. What changes is mounted: the bundles at /models, the store at /data.
#   docker build -t outcome-router .
#   docker run --read-only --tmpfs /tmp -v ./models:/models:ro -v router-data:/data -p 8080:8080 outcome-router
FROM python:3.11-slim AS build

WORKDIR /build
RUN python -m venv /opt/router
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY serving ./serving
RUN /opt/router/bin/pip install --no-cache-dir --constraint constraints.txt '.[postgres,redis]'

FROM python:3.11-slim

RUN groupadd --system --gid 10001 router \
    && useradd --system --uid 10001 --gid router --no-create-home --shell /usr/sbin/nologin router \
    && install --directory --owner router --group router /data
COPY --from=build /opt/router /opt/router

ENV PATH=/opt/router/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ROUTER_BUNDLE=/models/current \
    ROUTER_HOST=0.0.0.0 \
    ROUTER_PORT=8080 \
    ROUTER_STORE=/data/decisions.db

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['ROUTER_PORT'] + '/readyz', timeout=2)"]
ENTRYPOINT ["router-serve"]
