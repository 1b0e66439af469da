"""The tables of the classification protocols beyond end-to-end fine-tuning and the linear probe, as data.

Table 6 (transfer), Table 13 (robustness), Figure 9 (partial fine-tuning), k-NN, a part of the labels.
"""

from __future__ import annotations

from mae_bench.records.record import Record
from mae_bench.tables.definitions import data_sets as sets
from mae_bench.tables.definitions.data_sets import IMAGENET, bare, is_whole
from mae_bench.tables.definitions.schema import (
    ANY,
    ONE,
    Definition,
    Method,
    PaperColumn,
    Published,
    Subject,
    Subjects,
    TableMetric,
)
from mae_bench.tables.definitions.subjects import (
    all_labels,
    label_share,
    millions,
    paper_recipe,
    test_set,
    told_share,
    tuned_blocks,
)
from mae_bench.tables.table import Chart
from tasks.recipe import Recipe

BASE, LARGE, HUGE = "vit_base_patch16", "vit_large_patch16", "vit_huge_patch14"
FOUR_SIZES = (
    PaperColumn("ViT-B", "ViT-B", "top1", BASE, 224),
    PaperColumn("ViT-L", "ViT-L", "top1", LARGE, 224),
    PaperColumn("ViT-H", "ViT-H", "top1", HUGE, 224),
    PaperColumn("ViT-H448", "ViT-H448", "top1", HUGE, 448),
)
_PREVIOUS_BEST = PaperColumn("previous best", "prev_best", "top1")
_TOP1 = (TableMetric("top1"),)
_TRANSFER = tuple(
    Subject(name, data.name, name, data=data)
    for name, data in zip(("iNat 2017", "iNat 2018", "iNat 2019", "Places205", "Places365"), sets.TRANSFER, strict=True)
)
_ROBUSTNESS = (
    Subject("IN-C, mCE", "imagenet_c", "IN-Corruption mCE (lower better)", "inc_mce", sets.IMAGENET_C),
    Subject("IN-C, error", "imagenet_c", None, "inc_error", sets.IMAGENET_C),
    Subject("IN-A", "imagenet_a", "IN-Adversarial top-1", data=sets.IMAGENET_A),
    Subject("IN-R", "imagenet_r", "IN-Rendition top-1", data=sets.IMAGENET_R),
    Subject("IN-Sketch", "imagenet_sketch", "IN-Sketch top-1", data=sets.IMAGENET_SKETCH),
    Subject("IN-V2", "imagenet_v2", data=sets.IMAGENET_V2),
    Subject("IN-ReaL", "imagenet_real", data=sets.IMAGENET_REAL),
)


def _transfer(record: Record) -> str | None:
    return bare(record.data.name) if label_share(record) == 1 else None


def fine_tuned(record: Record) -> str | None:
    """The subject of Table 3: with all labels, on what is not Table 6's."""
    return "" if label_share(record) == 1 and bare(record.data.name) not in {s.key for s in _TRANSFER} else None


def _with_few_labels(recipe: Recipe) -> bool:
    return bool(recipe.data.label_share or recipe.data.label_list)


def _of_transfer(recipe: Recipe) -> bool:
    return bare(recipe.data.name) in {data.name for data in sets.TRANSFER} and not _with_few_labels(recipe)


PROTOCOL_DEFINITIONS = (
    Definition(
        name="table6",
        title="Table 6: transfer to other data sets, fine-tuned end to end, top-1 accuracy (%)",
        task="classification",
        protocols=("finetune", "scratch"),
        data=sets.INAT2017,  # each subject has its own
        metrics=_TOP1,
        columns=(*FOUR_SIZES, _PREVIOUS_BEST),
        methods=(Method("scratch"), Method("MAE")),
        published=(Published("mae_t6", row="subject", method="MAE"),),
        subjects=Subjects("data set", _transfer, _TRANSFER),
        recipes=_of_transfer,
        own_columns_by="",
    ),
    Definition(
        name="table13",
        title="Table 13: robustness of models fine-tuned on ImageNet-1K, top-1 accuracy (%), on IN-C mCE (%)",
        task="classification",
        protocols=("robustness",),
        data=sets.IMAGENET,  # each subject has its own
        metrics=_TOP1,
        columns=(*FOUR_SIZES, _PREVIOUS_BEST),
        methods=(Method("supervised"), Method("MAE")),
        published=(
            Published("mae_t13", row="subject", method="MAE"),
            Published("mae_t13_sup", row="subject", method="supervised"),
        ),
        subjects=Subjects("test set", test_set, _ROBUSTNESS),
        own_columns_by="",
        notes=(
            "IN-C, lower is better: mCE is the mean over 15 corruptions of the error as a share of AlexNet's on the same "
            "corruption (arXiv 1903.12261), the figure that the paper prints; error is the plain mean of all 75 errors, "
            "not to be set against it",
            "published, supervised: trained from scratch on ImageNet-1K by the authors of MAE",
        ),
    ),
    Definition(
        name="fig9",
        title="Figure 9: partial fine-tuning, ImageNet-1K, top-1 accuracy (%)",
        task="classification",
        protocols=("partial",),
        fallback_protocols=("linear", "finetune"),
        data=sets.IMAGENET,
        metrics=_TOP1,
        columns=(PaperColumn("ViT-L", "", "top1", LARGE, 224),),
        methods=(Method("MAE", "MAE"), Method("MoCo v3", "MoCo v3")),
        published=(Published("mae_fig9", row="subject", column="method"),),
        subjects=Subjects(
            "blocks tuned",
            tuned_blocks,
            tuple(Subject(f"{n:g}", n, f"{n:g}") for n in (0, 0.5, 1, 2, 4, 6, 12, 18, 24)),
            label=lambda blocks: f"{blocks:g}",
        ),
        notes=(
            "ours, the ends of a curve: linear probe and end-to-end fine-tuning, where no partial run tuned none or all",
        ),
        chart=Chart("blocks fine-tuned", "top-1 accuracy (%)", "steps"),
    ),
    Definition(
        name="knn",
        title="k-nearest neighbours on frozen features, ImageNet-1K, top-1 accuracy (%)",
        task="probing",
        protocols=("knn",),
        data=sets.IMAGENET,
        metrics=_TOP1,
        columns=(
            PaperColumn("ViT-B", "ViT-B", "top1", BASE, 224),
            PaperColumn("ViT-L", None, "top1", LARGE, 224),
            PaperColumn("ViT-H", None, "top1", HUGE, 224),
        ),
        methods=(Method("scratch"), Method("MAE"), Method("MAE, 100 epochs", "MAE ViT-B/16")),
        published=(Published("lightly_mae", column="subject"),),
        subjects=Subjects(
            "k",
            lambda record: "",
            tuple(Subject(str(k), "", "knn_top1" if k == 200 else None, f"knn{k}_top1") for k in (10, 20, 100, 200)),
        ),
        notes=(
            "the paper has no k-NN figures; the published row is another benchmark's, of a pre-training of its own",
        ),
    ),
    Definition(
        name="lowshot",
        title="Fine-tuning with a part of the labels, top-1 accuracy (%)",
        task="classification",
        protocols=("finetune", "scratch"),
        data=sets.IMAGENET,
        metrics=_TOP1,
        columns=(),
        methods=(Method("scratch"), Method("MAE")),
        subjects=Subjects(
            "labels",
            told_share,
            (Subject("1 %", 0.01), Subject("10 %", 0.1), Subject("100 %", 1.0)),
            label=lambda share: f"{100 * share:g} %",
        ),
        recipes=_with_few_labels,
        own_columns_by="val",
        notes=("the paper has no figures with a part of the labels",),
    ),
)


def _sized(record: Record) -> float | None:
    """The subject of Figure 8: how large the encoder is. On ImageNet-1K only at the paper's input size."""
    return (
        None
        if all_labels(record) is None or (is_whole(IMAGENET, record) and record.img_size != 224)
        else millions(record)
    )


TABLE3 = Definition(
    name="table3",
    title="Table 3: image classification, fine-tuned end to end, ImageNet-1K, top-1 accuracy (%)",
    task="classification",
    protocols=("finetune", "scratch"),
    data=IMAGENET,
    metrics=(TableMetric("top1"),),
    columns=FOUR_SIZES,
    published=(Published("mae_t3"),),
    subjects=Subjects("", fine_tuned, ONE),
    methods=(
        Method("scratch", "scratch, our impl."),
        Method("DINO", "DINO"),
        Method("MoCo v3", "MoCo v3"),
        Method("BEiT", "BEiT"),
        Method("MAE", "MAE"),
    ),
    recipe_of=paper_recipe,
)
TABLE12 = Definition(
    name="table12",
    title="Table 12: image classification, linear probe, ImageNet-1K, top-1 accuracy (%)",
    task="classification",
    protocols=("linear",),
    data=IMAGENET,
    metrics=(TableMetric("top1"),),
    columns=(
        PaperColumn("iGPT-L", "iGPT-L", "top1"),
        PaperColumn("iGPT-XL", "iGPT-XL", "top1"),
        PaperColumn("ViT-B", "ViT-B", "top1", BASE, 224),
        PaperColumn("ViT-L", "ViT-L", "top1", LARGE, 224),
        PaperColumn("ViT-H", "ViT-H", "top1", HUGE, 224),
    ),
    methods=(Method("scratch"), Method("iGPT", "iGPT"), Method("BEiT", "BEiT"), Method("MAE", "MAE")),
    published=(Published("mae_t12", long=("model", "acc")),),
    subjects=Subjects("", all_labels, ONE),
    recipe_of=paper_recipe,
)
FIGURE8 = Definition(
    name="fig8",
    title="Figure 8: MAE pre-training against supervised training by model size, ImageNet-1K, top-1 accuracy (%)",
    task="classification",
    protocols=("finetune", "scratch"),
    data=IMAGENET,
    metrics=(TableMetric("top1"),),
    columns=(PaperColumn("fine-tuned", "", "top1", ANY, 224),),
    methods=(Method("MAE", "MAE, IN1K"), Method("scratch", "supervised, IN1K, our impl.")),
    published=(Published("mae_fig8", column="subject"),),
    subjects=Subjects(
        "encoder",
        _sized,
        tuple(
            Subject(f"{name}, {size} M", float(size), name)
            for name, size in (("ViT-B", 86), ("ViT-L", 304), ("ViT-H", 632))
        ),
        label=lambda size: f"{size:g} M",
    ),
    notes=(
        "scratch: supervised training on ImageNet-1K alone, as the authors of MAE ran it",
        "left out: the two curves that the figure takes from the ViT paper (trained on ImageNet-1K, on JFT-300M), whose "
        "figures nobody here has read in their source",
    ),
    chart=Chart("encoder parameters (millions)", "top-1 accuracy (%)", "steps"),
    recipe_of=paper_recipe,
)
