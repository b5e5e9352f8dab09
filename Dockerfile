# Serves a mounted model folder as a non-root user.
#   docker build -t cutpoint .                                 CPU
#   docker build -t cutpoint:gpu --build-arg EXTRA=gpu .       CUDA: needs the NVIDIA driver and container toolkit, nothing else
#   docker run -p 8001:8001 -p 8002:8002 -v "$PWD/models:/models:ro" -v cutpoint-state:/state cutpoint
#   docker run --gpus all ... cutpoint:gpu --provider cuda
# The steps are the Makefile's own (`make runtime`), so they are run and checked without Docker too.
FROM python:3.11-slim AS build
ARG EXTRA=server
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make runtime EXTRA=${EXTRA} RUNTIME=/opt/cutpoint

FROM python:3.11-slim
# The same path in both stages: a virtual environment cannot be moved.
COPY --from=build /opt/cutpoint /opt/cutpoint
RUN useradd --system --uid 65532 --no-create-home cutpoint && install -d -o cutpoint /state /models
USER cutpoint
VOLUME ["/models", "/state"]
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/cutpoint/bin/cutpoint", "serve", "--models", "/models", "--state", "/state", "--host", "0.0.0.0"]
