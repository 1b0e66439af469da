"""A file is the old one or the new one, never a part, and a write that fails leaves nothing behind."""

from pathlib import Path

import pytest

from backbones.atomic import replacing, write_json, write_text


@pytest.mark.parametrize("durable", [False, True])
def test_the_file_is_the_new_one_and_alone(tmp_path: Path, durable: bool) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old")
    write_text(place, "neü", durable=durable)
    assert place.read_text("utf-8") == "neü"
    assert list(tmp_path.iterdir()) == [place]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old")

    def write_half() -> None:
        with replacing(place) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_the_temporary_lies_beside_it_has_its_suffix_and_is_no_match_for_it(tmp_path: Path) -> None:
    with replacing(tmp_path / "step_1.npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        temporary.touch()
        assert not list(tmp_path.glob("step_*"))


def test_not_a_number_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())
