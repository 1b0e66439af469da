"""What a rehearsal says of a sharded model: a share of all that is sharded, and no less than has to be there at once."""

from __future__ import annotations

from mae_bench.recipes.load import load_recipe
from mae_bench.rehearsal.hours import moved
from mae_bench.rehearsal.rehearse import Step
from mae_bench.rehearsal.show import in_shards

STEP = Step(
    **{"images": 4, "parameters": 25, "weights": 100, "gradients": 80, "optimizer": 160, "ema": 100},
    **{"gathered": 20, "activations": 400, "peak": 1000, "per_image": 100.0, "fixed": 600.0, "evaluation_peak": 300},
)


def test_each_process_keeps_its_share_and_what_is_gathered() -> None:
    mine = in_shards(STEP, 4)
    assert (mine.weights, mine.gradients, mine.optimizer, mine.ema) == (25, 20, 40, 25)
    less = 75 + 60 + 120 + 75 - 2 * 15
    assert (mine.peak, mine.fixed) == (1000 - less, 600 - less)
    assert mine.evaluation_peak == 300 + 25  # whole weights, filled from the shards


def test_the_peak_is_no_less_than_the_end_of_the_forward_pass() -> None:
    large = Step(**{**STEP.__dict__, "activations": 900})
    assert in_shards(large, 4).peak == 25 + 40 + 25 + 20 + 900


def test_weights_are_gathered_twice_in_every_micro_batch() -> None:
    recipe = load_recipe("finetune/vit_micro_patch8_embedded", ["train.batch_size=16", "train.micro_batch_size=4"])
    assert (moved(recipe, STEP, 1), moved(recipe, STEP, 2)) == (0, 80)
    recipe.train.parallel = "fsdp"
    assert moved(recipe, STEP, 2) == 2 * (2 * 100 + 80)  # 8 images a process, 4 at once
