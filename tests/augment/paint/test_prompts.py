"""Prompts: the published table, a seeded choice, style words, and tables of one's own."""

import pytest

from augment.paint.prompts import draw_prompts, load_prompts
from support.errors import InputError


def test_the_default_table_is_the_published_one():
    table = load_prompts()
    assert table.classes["car"] == ("a red car", "a white car") and len(table.classes) == 10
    drawn = {draw_prompts("bus", seed, table)[0] for seed in range(20)}
    assert drawn == {"a photo of a red bus", "a photo of a green bus"}


def test_samples_take_each_phrase_before_any_comes_again():
    table = load_prompts()
    four = draw_prompts("bus", 7, table, count=4)
    assert set(four[:2]) == {"a photo of a red bus", "a photo of a green bus"} and four[2:] == four[:2]
    assert draw_prompts("bus", 7, table, count=1) == four[:1]


def test_style_words_and_unknown_classes():
    table = load_prompts()
    assert draw_prompts("tram", 0, table, "at night") == ("a photo of a tram at night",)


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("template: '{}, sharp'\nnegative: blurry\nstyle: in rain\nclasses:\n  car: [a taxi]\n")
    table = load_prompts(path)
    assert table.negative == "blurry"
    assert draw_prompts("car", 1, table) == ("a taxi, sharp in rain",)
    assert draw_prompts("bus", 1, table) == ("a bus, sharp in rain",)


@pytest.mark.parametrize(
    "content, wanted",
    (
        ("classes: [car", "no readable table"),
        ("- car", "not a mapping"),
        ("colour: red", "unknown key 'colour'"),
        ("negative: [bad]", "negative must be a text"),
        ("template: a photo", "one {}"),
        ("template: '{} {size}'", "one {}"),
        ("classes: [car]", "classes must map"),
        ("classes:\n  car: red", "car must have a list"),
        ("classes:\n  car: []", "car must have a list"),
    ),
)
def test_a_bad_table_is_one_line(tmp_path, content, wanted):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=wanted) as error:
        load_prompts(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_table_is_one_line(tmp_path):
    with pytest.raises(InputError, match="no readable table"):
        load_prompts(tmp_path / "none.yaml")
