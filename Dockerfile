# One image for every service of docker-compose.yml; a service's command says which one it is.
FROM python:3.12-slim AS build
COPY . /source
RUN python -m venv /opt/petiole \
    && /opt/petiole/bin/pip install --no-cache-dir -c /source/constraints.txt '/source[console,oidc,openai,otel,sse,video,voice]'

FROM python:3.12-slim
# The synthesizer of the agent `speaking`.
RUN apt-get update && apt-get install -y --no-install-recommends espeak-ng && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/petiole /opt/petiole
ENV PATH=/opt/petiole/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/petiole petiole
# Celery reads celeryconfig.py from the working directory. It is outside the home directory because beat's volume is
# mounted there and would keep the file of the first image.
WORKDIR /etc/petiole
COPY celeryconfig.py .
USER petiole
CMD ["celery", "-A", "petiole.workers", "worker"]
