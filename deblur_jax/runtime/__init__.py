"""What the machine gives: devices, processes, compilation, memory, progress."""
