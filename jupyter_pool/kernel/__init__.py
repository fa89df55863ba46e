"""What runs inside a worker: the kernel, its streams, the reset between requests.

Start it with ``python -m jupyter_pool.kernel -f connection_file``. It is a
complete Jupyter kernel; requests that carry the metadata key ``jupyter_pool``
also get inputs, outputs and a reset.
"""
