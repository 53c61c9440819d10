"""Options from flags and YAML."""

import dataclasses
import json

import pytest
import yaml

from augment.options import SynthOptions, as_yaml, from_saved, options_of
from scripts.synth import run
from support.errors import InputError
from tests.programs import run_ok


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("select: {k: 7, margin: 1}\nbackend: {name: recolor, strength: 2}\n")
    given = options_of({"config": str(path), "k": 2})
    assert (given.k, given.margin, given.samples) == (2, 1.0, 2)
    assert (given.backend, given.backend_settings) == ("recolor", {"strength": 2})
    path.write_text(as_yaml(given))
    assert options_of({"config": str(path)}) == given
    assert options_of({"classes": "person, car"}).class_names == ("person", "car")
    assert from_saved(json.loads(json.dumps(dataclasses.asdict(given))), "synth.json") == given


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("selection: {k: 1}", "unknown section 'selection'"),
        ("select: {kk: 1}", "unknown setting 'kk'"),
        ("select: {k: three}", "k must be of type int"),
        ("select: [k]", "must hold 'name: value'"),
        ("select: {policy: best}", "policy 'best' is unknown: choose largest,"),
        ("select: {classes: house}", "'house' has no instances"),
        ("select: {margin: -1}", "margin must be at least 0"),
        ("data: {scene_size: big}", "WIDTHxHEIGHT"),
        ("[1]", "must hold sections"),
        ("a: [", "can't be read as YAML"),
    ],
)
def test_a_bad_yaml_is_named_in_one_line(tmp_path, text, complaint):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint) as error:
        options_of({"config": str(path)})
    assert "\n" not in str(error.value)


def test_print_config_explains_every_option():
    printed = run_ok(run.main, "--print_config", "--k", 5)
    content = yaml.safe_load(printed)
    assert content["select"]["k"] == 5
    names = {item.name for item in dataclasses.fields(SynthOptions)} - {"backend", "backend_settings"}
    assert {name for section in content.values() for name in section} == names | {"name"}
    assert printed.count("  # ") >= len(names)
