# LiteLLM's proxy, with the plug-in beside it. It asks the router over HTTP, and needs the base package alone.
FROM ghcr.io/astral-sh/uv:0.9.5 AS uv

FROM ghcr.io/berriai/litellm:v1.108.7

COPY --from=uv /uv /usr/local/bin/uv
COPY pyproject.toml README.md LICENSE /opt/outcome-router/
COPY serving /opt/outcome-router/serving
# Into whichever Python the image runs the proxy with; its own LiteLLM stays, so nothing may move that one.
RUN uv pip install --no-cache --python "$(command -v python)" --break-system-packages \
    'litellm[proxy]==1.108.7' '/opt/outcome-router[client]'
