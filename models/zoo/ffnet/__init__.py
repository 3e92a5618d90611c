"""FFNet: attention whose keys and values are kernels, and its merged form."""
