"""How XLA compiles in tests: in a third of the usual time, and so with slower programs."""

FAST = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
