# docker build -t multimax . && docker run --gpus all -it multimax
# torch's wheel brings CUDA; the image adds the compilers of the CPU's kernels and of Triton's.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /multimax
COPY . .
RUN make setup PYTHON=python3
ENV PATH="/multimax/.venv/bin:$PATH"
CMD ["bash"]
