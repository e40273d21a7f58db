"""What scripts/bench-cma and scripts/bench-coco share: pycma's own virtual environment, and our program."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "target" / "bench"
VENV = BENCH / "cma"
PINS = ROOT / "scripts" / "peers" / "cma-requirements.txt"
ZEROTH = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "zeroth"


def go_on_in_venv(threads):
    """Starts the script again in a virtual environment with the pinned pycma, OpenBLAS on so many threads and otherwise
    as it sets itself."""
    python, made = VENV / "bin" / "python", VENV / "made-from"
    if pathlib.Path(sys.prefix) == VENV and os.environ.get("OPENBLAS_NUM_THREADS") == str(threads):
        return
    if not made.exists() or made.read_text() != PINS.read_text():
        print(f"making {VENV} with pycma", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", PINS], check=True, stdout=sys.stderr)
        made.write_text(PINS.read_text())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    environment |= {"OPENBLAS_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    os.execve(python, [str(python), *sys.argv], environment)


def need_zeroth():
    if not ZEROTH.exists():
        sys.exit(f"{ZEROTH} is missing: cargo build --release")


class Ours:
    """An ask/tell process: `zeroth bench cma --stdio`."""

    def __init__(self):
        command = [ZEROTH, "bench", "cma", "--stdio"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def request(self, **wanted):
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"zeroth bench cma --stdio has ended with {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
