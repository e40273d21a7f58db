"""Writes tests/golden/crds.json: schemas of the operators' kinds that deploy/ uses, for scripts/check-deploy.

Their custom resource definitions are in no package of crates.io, PyPI or npm for all of them; what kopium made of them
is: the crates kcr_* of kube-custom-resources-rs (0BSD), a Rust struct for each object and an enum for each choice. This
reads fields, types, what must be there and which words are allowed back out of them. Bounds, patterns and rules in CEL
are not in those crates, so the schemas do not have them. An unknown field is an error, as for a cluster that is asked
to be strict.

Needs cargo and crates.io. Run from the repository's root: python3 scripts/golden/crds.py
"""

import json
import pathlib
import re
import subprocess
import tempfile

OUT = pathlib.Path("tests/golden/crds.json")
CRATES = {
    "kcr_cert_manager_io": "3.20260606.152110",
    "kcr_jobset_x_k8s_io": "3.20260603.102353",
    "kcr_keda_sh": "3.20260609.65038",
    "kcr_monitoring_coreos_com": "3.20260613.160609",
}
SOURCES = [
    ("kcr_cert_manager_io", "v1/certificates.rs"),
    ("kcr_cert_manager_io", "v1/issuers.rs"),
    ("kcr_jobset_x_k8s_io", "v1alpha2/jobsets.rs"),
    ("kcr_keda_sh", "v1alpha1/scaledobjects.rs"),
    ("kcr_monitoring_coreos_com", "v1/podmonitors.rs"),
    ("kcr_monitoring_coreos_com", "v1/prometheusrules.rs"),
]
# Not followed: a Job's spec is checked by Kubernetes' own schemas, and no manifest here has an issuer of these sorts.
ELSEWHERE = {"JobSetReplicatedJobsTemplateSpec": {"type": "object"}}
ABSENT = ["acme", "vault", "venafi"]
PLAIN = {
    "String": {"type": "string"},
    "bool": {"type": "boolean"},
    "i32": {"type": "integer"},
    "i64": {"type": "integer"},
    "f64": {"type": "number"},
    "IntOrString": {"type": ["integer", "string"]},
    "Condition": {"type": "object"},
    "serde_json::Value": {},
}
ITEM = re.compile(r"^pub (struct|enum) (\w+) \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"(?:#\[serde\(([^\n]*)\)\]\n\s*)?(?:pub (?:r#)?(\w+): ([^\n]+)|(\w+)),$", re.M)
HEAD = re.compile(r'#\[kube\(group = "(.*?)", version = "(.*?)", kind = "(.*?)"')


def crates():
    """Where cargo has put the crates' sources."""
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        (work / "src").mkdir()
        (work / "src/lib.rs").touch()
        pins = "".join(f'{name} = "={version}"\n' for name, version in CRATES.items())
        (work / "Cargo.toml").write_text(f'[package]\nname = "crds"\nedition = "2024"\n[dependencies]\n{pins}')
        said = subprocess.run(["cargo", "metadata", "--format-version", "1"], cwd=work, check=True, capture_output=True).stdout
    return {package["name"]: pathlib.Path(package["manifest_path"]).parent for package in json.loads(said)["packages"]}


def type_schema(text):
    """The schema of a Rust type; a struct or an enum by reference."""
    if text in PLAIN:
        return PLAIN[text]
    if inner := re.fullmatch(r"Vec<(.*)>", text):
        return {"type": "array", "items": type_schema(inner[1])}
    if inner := re.fullmatch(r"BTreeMap<String, (.*)>", text):
        return {"type": "object", "additionalProperties": type_schema(inner[1])}
    assert re.fullmatch(r"\w+", text), f"a type of another sort: {text}"
    return ELSEWHERE.get(text, {"$ref": f"#/$defs/{text}"})


def item_schema(sort, body):
    """The schema of a struct or of an enum without content."""
    words, properties, required = [], {}, []
    for attributes, field, kind, variant in FIELD.findall(body):
        renamed = re.search(r'rename = "(.*?)"', attributes)
        name = renamed[1] if renamed else field or variant
        if variant:
            words.append(name)
            continue
        optional = re.fullmatch(r"Option<(.*)>", kind)
        if name in ABSENT:
            continue
        properties[name] = type_schema(optional[1] if optional else kind)
        if not optional:
            required.append(name)
    if sort == "enum":
        assert words, body
        return {"enum": words}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def references(schema):
    return set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))


def definitions(text):
    """A kind's name, and the schemas that it reaches."""
    group, version, kind = HEAD.search(text).groups()
    items = {name: item_schema(sort, body) for sort, name, body in ITEM.findall(text)}
    reached, open_ = {}, [f"{kind}Spec"]
    while open_:
        name = open_.pop()
        if name not in reached:
            reached[name] = items[name]
            open_ += sorted(references(items[name]))
    reached[kind] = {
        "type": "object",
        "properties": {
            "apiVersion": {"const": f"{group}/{version}"},
            "kind": {"const": kind},
            "metadata": {"type": "object"},
            "spec": {"$ref": f"#/$defs/{kind}Spec"},
        },
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
    }
    return kind, reached


def main():
    folders, kinds, defs = crates(), [], {}
    for crate, file in SOURCES:
        kind, reached = definitions((folders[crate] / "src" / file).read_text())
        kinds.append(kind)
        defs |= reached
    made_by = "scripts/golden/crds.py from " + ", ".join(f"{name} {version}" for name, version in CRATES.items()) + " (0BSD)"
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(defs[name], separators=(',', ':'))}" for name in sorted(defs))
    OUT.write_text(f'{{\n "made_by": {json.dumps(made_by)},\n "kinds": {json.dumps(sorted(kinds))},\n "$defs": {{\n{lines}\n }}\n}}\n')


main()
