# One image for every service of docker-compose.yml: which one it is, its command says.
FROM python:3.12-slim AS build
COPY . /source
RUN python -m venv /opt/petiole \
    && /opt/petiole/bin/pip install --no-cache-dir -c /source/constraints.txt '/source[openai]'

FROM python:3.12-slim
COPY --from=build /opt/petiole /opt/petiole
ENV PATH=/opt/petiole/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/petiole petiole
USER petiole
WORKDIR /var/lib/petiole
CMD ["celery", "-A", "workers", "worker"]
