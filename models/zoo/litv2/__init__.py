"""LITv2: attention whose heads part into windows of high and cells of low frequency (HiLo)."""
