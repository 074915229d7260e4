# The API; as `cartsvc worker` the worker, and as `cartsvc migrate`, `catalog`, `stock`, ... all else
# but `cartsvc dev`: the servers that it runs are not in here.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# What builds the package, by the hashes of the lock.
COPY requirements.lock ./
RUN awk '/^[a-z]/ {build = /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/} build' \
        requirements.lock > build.lock \
    && pip install --require-hashes -r build.lock
COPY requirements-serve.lock ./
RUN python -m venv --without-pip /opt/cartsvc \
    && pip --python /opt/cartsvc/bin/python install --require-hashes --no-deps -r requirements-serve.lock \
    && find /opt/cartsvc -name '*.map' -delete
COPY pyproject.toml README.md LICENSE ./
COPY lua lua
COPY cartsvc cartsvc
RUN python -m hatchling build -t wheel -d dist \
    && pip --python /opt/cartsvc/bin/python install --no-deps dist/*.whl

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin cartsvc
COPY --from=build /opt/cartsvc /opt/cartsvc
ENV PATH=/opt/cartsvc/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CARTSVC_HOST=0.0.0.0 CARTSVC_PORT=8000
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['CARTSVC_PORT'] + '/healthz', timeout=2)"]
CMD ["cartsvc", "serve"]
