"""Optional kernels in C++ for CPU."""
