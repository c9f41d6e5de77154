"""What programs cost: matmul FLOPs, collectives and memory read from the compiled program, and wall time measured in turns."""
