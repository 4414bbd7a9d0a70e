"""Start JupyterLab without a browser, as `make lab` does, and work in it: its kernels, a pair, and a notebook run to its end.

python tools/check_lab.py [notebook]     01_method, if none is named
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PATIENCE = 120  # seconds until the server answers, on a busy machine


def read(name: str) -> Any:
    """A notebook from its source."""
    return jupytext.read(ROOT / "notebooks" / f"{name}.py", fmt="py:percent")


def ask(address: str, token: str) -> Any:
    """What the server answers to a request."""
    with urlopen(Request(address, headers={"Authorization": f"token {token}"}), timeout=30) as reply:
        return json.load(reply)


def find_server(place: Path, process: "subprocess.Popen[bytes]") -> str:
    """The address of the server, as soon as it has written it down and answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        for info in place.glob("jpserver-*.json"):
            try:
                address = str(json.loads(info.read_text(encoding="utf-8"))["url"])
                urlopen(f"{address}login", timeout=5).close()
                return address
            except (ValueError, URLError):  # half written, or not listening yet
                pass
        time.sleep(0.2)
    raise SystemExit("JupyterLab did not start")


def check_server(place: Path, name: str) -> None:
    """Ask a running JupyterLab for its page, its kernels and a pair opened from its source."""
    token = secrets.token_hex(16)
    lab = [
        "jupyter",
        "lab",
        "--MultiKernelManager.default_kernel_name=itpo",
        "notebooks",
    ]  # as in the Makefile
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command = [sys.executable, "-m", *lab, *options]
    environment = os.environ | {"JUPYTER_RUNTIME_DIR": str(place), "JUPYTER_TOKEN": token}
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        address = find_server(place, process)
        kernels = ask(f"{address}api/kernelspecs", token)
        if "itpo" not in kernels["kernelspecs"] or kernels["default"] != "itpo":
            raise SystemExit(f"itpo is not the first of the kernels {', '.join(kernels['kernelspecs'])}")
        opened = ask(f"{address}api/contents/{name}.py?type=notebook", token)
        if [cell["source"] for cell in opened["content"]["cells"]] != [
            cell.source for cell in read(name).cells
        ]:
            raise SystemExit(f"{name}.py opens as another notebook")
        os.utime(ROOT / "notebooks" / f"{name}.ipynb")  # newer than its source, as `make reproduce` leaves it
        ask(f"{address}api/contents/{name}.ipynb", token)
        print(f"JupyterLab runs, has the kernel itpo, and opens {name} from its .py and its .ipynb")
    finally:
        process.terminate()
        process.wait()


def check_kernel(name: str) -> None:
    """Run a notebook through the kernel, which must be this environment's interpreter."""
    notebook = read(name)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print(sys.prefix)"))
    for cell in notebook.cells:  # what it publishes goes to build/smoke/
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = cell.source.replace('"laptop"', '"smoke"')
    NotebookClient(
        notebook, kernel_name="itpo", timeout=600, extra_arguments=["--log-level=CRITICAL"]
    ).execute()
    if notebook.cells[-1].outputs[0].text.strip() != sys.prefix:
        raise SystemExit("the kernel itpo is another environment's")
    cells = sum(cell.cell_type == "code" for cell in notebook.cells) - 1
    print(f"the kernel itpo runs the {cells} code cells of {name}")


def main() -> None:
    """Register the kernel, then check the server and the kernel."""
    name = sys.argv[1] if len(sys.argv) > 1 else "01_method"
    register = [sys.executable, "-m", "ipykernel", "install", "--sys-prefix", "--name", "itpo"]
    subprocess.run(register, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as place:
        check_server(Path(place), name)
    check_kernel(name)


if __name__ == "__main__":
    main()
