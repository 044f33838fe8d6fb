# tradehub: one image for web, worker and streams. See deploy/compose.yaml and docs/operations.md.
FROM python:3.11-slim-bookworm AS packages
COPY requirements.txt /requirements.txt
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /requirements.txt

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /home/tradehub --shell /usr/sbin/nologin tradehub
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/tradehub
COPY manage.py ./
COPY exchanges ./exchanges
COPY orders ./orders
COPY tracking ./tracking
COPY notifications ./notifications
COPY tradehub ./tradehub
COPY templates ./templates
COPY static ./static
COPY locale ./locale
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DOTENV=/dev/null \
    DJANGO_SETTINGS_MODULE=tradehub.settings
USER tradehub
EXPOSE 8000
CMD ["daphne", "--bind", "0.0.0.0", "--port", "8000", "--verbosity", "0", "--no-server-name", "tradehub.asgi:application"]
