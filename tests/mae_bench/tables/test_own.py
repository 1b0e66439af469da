"""The table that `run` ends with: the user's own jobs, the gain over scratch, the figure that the recipe reproduces."""

from __future__ import annotations

from dataclasses import replace

from mae_bench.recipes.load import as_dict, load_recipe, recipe_hash
from mae_bench.records.record import Init, Record
from mae_bench.tables.own import own_results
from tests.mae_bench.made_records import make


def run(method: str, top1: float, seed: int = 0, **fields: object) -> Record:
    sha = None if method == "scratch" else "a" * 64
    made = make(method, seed=seed, metrics={"top1": top1, "top5": 99.0}, job_id=f"{method}{seed}{top1}", **fields)
    return replace(made, init=Init(method=method, sha256=sha))


def test_starts_stand_side_by_side_with_the_gain() -> None:
    (row,) = own_results([run("MAE", 75.2), run("scratch", 54.1)])
    assert list(row) == ["task", "metric", "scratch", "MAE", "MAE - scratch"]
    assert (row["scratch"], row["MAE"], row["MAE - scratch"]) == ("54.1", "75.2", "+21.1")


def test_seeds_make_one_figure_with_its_spread() -> None:
    records = [run("MAE", 75.0, 0), run("MAE", 77.0, 1), run("scratch", 54.0, 0), run("scratch", 54.0, 1)]
    (row,) = own_results(records)
    assert row["MAE"] == "76.0 ± 1.4 (n=2)"
    assert row["scratch"] == "54.0"  # the seed changes nothing: no "± 0.0"
    assert row["MAE - scratch"] == "+22.0 ± 1.4"


def test_a_published_figure_stands_beside_the_recipe_that_reproduces_it_and_no_other() -> None:
    name = "finetune/vit_base_patch16_imagenet"
    recipe = load_recipe(name)
    fields = {"recipe_name": name, "recipe": as_dict(recipe), "recipe_hash": recipe_hash(recipe)}
    whole = run("MAE", 83.4, **fields)
    whole = replace(whole, data=replace(whole.data, name="imagenet", train_count=1_281_167, val_count=50_000))
    (row,) = own_results([whole])
    assert (row["published"], row["MAE - published"]) == ("83.7", "-0.3")  # FINETUNE.md, whose recipe it is
    part = replace(whole, data=replace(whole.data, train_count=1000))
    other = replace(whole, recipe_hash="0" * 64)
    for record in (part, other):
        assert "published" not in own_results([record])[0]


def test_two_checkpoints_of_one_method_get_columns_of_their_own() -> None:
    one, two = run("MAE", 70.0), replace(run("MAE", 60.0), init=Init(method="MAE", sha256="b" * 64))
    (row,) = own_results([one, two])
    assert {row["MAE"], row["MAE #2"]} == {"70.0", "60.0"}


def test_of_several_starts_the_gain_stands_in_brackets() -> None:
    shipped = replace(run("MAE, shipped", 85.4), init=Init(method="MAE, shipped", sha256="b" * 64))
    (row,) = own_results([run("MAE", 75.2), run("scratch", 54.1), shipped])
    assert set(row) == {"task", "metric", "scratch", "MAE", "MAE, shipped"}
    assert (row["scratch"], row["MAE"], row["MAE, shipped"]) == ("54.1", "75.2 (+21.1)", "85.4 (+31.3)")


def test_nothing_done_is_no_table() -> None:
    assert own_results([]) == []
