"""Split a large wheel into parts with checksums, and join them: for machines that accept only small files.

    python benchmarks/wheels.py split onnxruntime_gpu-*.whl parts --megabytes 55
    python benchmarks/wheels.py join parts wheels

`NAME.whl.json` has the checksums; `NAME.whl.000`, `NAME.whl.001` … are the parts, which may arrive in any order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path


def split(wheel: Path, folder: Path, megabytes: int) -> list[Path]:
    """Write the parts of a wheel and their checksums; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    sums = {}
    with wheel.open("rb") as opened:
        while data := opened.read(megabytes * 10**6):
            part = folder / f"{wheel.name}.{len(files):03}"
            part.write_bytes(data)
            sums[part.name] = hashlib.sha256(data).hexdigest()
            files.append(part)
    index = folder / f"{wheel.name}.json"
    index.write_text(json.dumps({"sha256": _sha256(wheel), "parts": sums}, indent=2) + "\n", encoding="utf-8")
    return [*files, index]


def join(folder: Path, target: Path) -> list[Path]:
    """Write all wheels of a folder into another one, joining those in parts; return them.

    Raises:
        SystemExit: a part is missing or damaged; the message names all of them.
    """
    target.mkdir(parents=True, exist_ok=True)
    wheels = [Path(shutil.copy(wheel, target)) for wheel in sorted(folder.glob("*.whl"))]
    for index in sorted(folder.glob("*.whl.json")):
        stored = json.loads(index.read_text(encoding="utf-8"))
        parts = [folder / name for name in stored["parts"]]
        bad = [part.name for part in parts if not part.is_file() or _sha256(part) != stored["parts"][part.name]]
        if bad:
            raise SystemExit(f"{folder}: missing or damaged: {', '.join(bad)}")
        wheel = target / index.name.removesuffix(".json")
        with wheel.open("wb") as opened:
            for part in parts:
                opened.write(part.read_bytes())
        if _sha256(wheel) != stored["sha256"]:
            raise SystemExit(f"{wheel}: the joined file has another checksum; split the wheel again")
        wheels.append(wheel)
    return wheels


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Split a wheel into parts with checksums, or join them.")
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split")
    splitting.add_argument("wheel", type=Path)
    splitting.add_argument("folder", type=Path)
    splitting.add_argument("--megabytes", type=int, default=55)
    joining = commands.add_parser("join")
    joining.add_argument("folder", type=Path)
    joining.add_argument("target", type=Path)
    given = parser.parse_args()
    done = split(given.wheel, given.folder, given.megabytes) if given.command == "split" else join(given.folder, given.target)
    print("\n".join(map(str, done)))


if __name__ == "__main__":
    main()
