"""The only training loop: pre-training and every task go through `fit`. It drives; tasks declare (`tasks.base`).

Where to read: `loop` top to bottom, then `trainer` (how a step is taken). A file for each thing that can go wrong: `faults`,
`checkpoints`, `finite`, `out_of_memory`; signals and full disks are `mae_bench.common`'s, dead data workers
`tasks.datasets.loading`'s, and whose run directory it is `mae_bench.jobs.lock`'s. Nothing is imported here: who needs a seed
should not wait for the loop.
"""
