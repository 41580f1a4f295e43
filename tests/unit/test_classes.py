"""Class schemas: order, hierarchy, codes, and what is refused."""

import json

import pytest
from pydantic import ValidationError

from leukoscope.core.classes import BINARY, SYMBOL_SIGNS, ClassSchema
from leukoscope.core.errors import ConfigError

KINDS = {
    "classes": [
        {
            "name": name, "title": name.title(), "short": name.title(), "color": "#112233", "color_dark": "#aabbcc",
            "symbol": "disc", "parent": parent, "codes": codes,
        }
        for name, parent, codes in (
            ("lymphoblast", "lymphoid_blast", []),
            ("myeloblast", "blast", [
                {"system": "Cell Ontology", "code": "CL:0000835", "source": "Cell Ontology, release of 2024"}
            ]),
            ("promyelocyte", "immature", []),
            ("neutrophil", None, []),
        )
    ],
    "groups": [
        {"name": "blast", "title": "Blast"},
        {"name": "lymphoid_blast", "title": "Lymphoid blast", "parent": "blast"},
        {"name": "immature", "title": "Immature granulocyte"},
    ],
    "positive": ["blast"],
}  # fmt: skip


def test_groups_hold_classes_at_any_depth_and_survive_json() -> None:
    schema = ClassSchema.model_validate(KINDS)
    assert schema.names == ("lymphoblast", "myeloblast", "promyelocyte", "neutrophil")
    assert schema.members("blast") == schema.positive_members == (0, 1)
    assert schema.members("lymphoid_blast") == (0,) and schema.members("neutrophil") == (3,)
    assert schema.ancestors("lymphoblast") == ("lymphoid_blast", "blast")
    assert (
        schema.is_positive("myeloblast")
        and not schema.is_positive("neutrophil")
        and not schema.is_positive(None)
    )
    assert schema.decisions[-2:] == ("uncertain", "rejected") and set(schema.names) < set(schema.decisions)
    assert ClassSchema.from_json(schema.to_json()) == schema
    assert schema.classes[1].codes[0].code == "CL:0000835"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["classes"][1].update(name="lymphoblast"), "more than once"),
        (lambda s: s["groups"][0].update(name="neutrophil"), "more than once"),
        (lambda s: s["classes"][3].update(name="rejected"), "status"),
        (lambda s: s["classes"][3].update(name="Neutrophil"), "pattern"),
        (lambda s: s["classes"][3].update(parent="granulocyte"), "no group"),
        (lambda s: s["groups"][0].update(parent="lymphoid_blast"), "circle"),
        (lambda s: s["groups"].append({"name": "empty", "title": "Empty"}), "holds no class"),
        (lambda s: s.update(positive=["leukemia"]), "unknown"),
        (lambda s: s.update(positive=["blast", "immature", "neutrophil"]), "every class"),
        (lambda s: s.update(classes=s["classes"][:1]), "at least 2"),
        (lambda s: s["classes"][0].update(color="red"), "pattern"),
        (lambda s: s["classes"][0].update(size=3), "Extra"),
    ],
)
def test_an_inconsistent_schema_is_refused(change, words: str) -> None:
    content = json.loads(json.dumps(KINDS))
    change(content)
    with pytest.raises(ValidationError, match=words):
        ClassSchema.model_validate(content)
    with pytest.raises(ConfigError, match=r"kinds\.json"):
        ClassSchema.from_json(json.dumps(content), "kinds.json")


def test_binary_is_the_schema_of_cnmc() -> None:
    assert BINARY.names == ("normal", "blast") and BINARY.positive_members == (1,)
    assert BINARY.decisions == ("blast", "normal", "uncertain", "rejected")
    assert ClassSchema.of_names(["normal", "blast"]) == BINARY
    assert ClassSchema.from_json(BINARY.to_json()) == BINARY
    assert len({BINARY.symbol(decision) for decision in BINARY.decisions}) == 4
    assert {BINARY.symbol(decision) for decision in BINARY.decisions} <= SYMBOL_SIGNS.keys()


def test_names_alone_make_a_schema_with_colors_that_differ() -> None:
    names = [f"kind_{number}" for number in range(8)]
    schema = ClassSchema.of_names(names, positive=["kind_0"])
    assert schema.names == tuple(names) and schema.title("kind_3") == "Kind 3"
    assert (
        len({entry.color for entry in schema.classes}) == len({entry.symbol for entry in schema.classes}) == 8
    )
    assert schema.title("of_another_model") == "of_another_model"
    for wrong in (["a", "a"], ["only"], ["with space", "b"]):
        with pytest.raises(ConfigError):
            ClassSchema.of_names(wrong)


def test_a_missing_schema_file_names_the_remedy(tmp_path) -> None:
    with pytest.raises(ConfigError, match="class schema"):
        ClassSchema.read(tmp_path / "none.json")
    (tmp_path / "kinds.json").write_text(json.dumps(KINDS), encoding="utf-8")
    assert ClassSchema.read(tmp_path / "kinds.json") == ClassSchema.model_validate(KINDS)
