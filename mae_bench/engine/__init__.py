"""The only training loop: pre-training and every task go through `fit`. It drives; tasks declare (`tasks.base`).

Where to read: `loop` top to bottom, then `trainer` (how a step is taken). A file for each thing that can go wrong: `faults`,
`checkpoints`, `lock`, `finite`, beside it `mae_bench.common.signals`, `disk` and `memory`; dead data workers are
`tasks.datasets.loading`'s.
"""
