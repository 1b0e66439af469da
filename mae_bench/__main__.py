"""``python -m mae_bench`` (for torchrun: ``torchrun --nproc_per_node 2 -m mae_bench run …``)."""

from mae_bench.cli.main import main

if __name__ == "__main__":
    main()
