"""The file copyright of a Debian package, for gcorefs and all that its environment has.

    python package/copyright.py LICENSE

It runs with the Python of that environment.  Debian Policy 12.5; the form is that of
https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
"""

import importlib.metadata
import sys
from pathlib import Path

HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: gcorefs
Comment: The package has the libraries of gcorefs in it, each with its own license.
"""


def indented(text: str) -> str:
    """As the value of a field that has several lines."""
    return "".join(f" {line.rstrip() or '.'}\n" for line in text.strip().splitlines())


def license_of(about: importlib.metadata.PackageMetadata) -> str:
    """In a few words.  Older packages have it in a classifier alone."""
    for field in ("License-Expression", "License"):
        if 0 < len(value := about.get(field, "").strip()) < 80:
            return value
    kinds = [each for each in about.get_all("Classifier", []) if each.startswith("License ::")]
    return ", ".join(each.rpartition(" :: ")[2] for each in kinds) or "see its files"


def main() -> None:
    """Write it to standard output."""
    ours = Path(sys.argv[1]).read_text()
    print(HEAD)
    print("Files: *\nCopyright: 2026 the gcorefs developers")
    print(f"License: MIT\n{indented(ours)}")
    found = {each.name: each for each in importlib.metadata.distributions()}
    del found["gcorefs"]
    for name in sorted(found, key=str.lower):
        about = found[name].metadata
        print(f"Files: usr/lib/gcorefs/lib/python*/site-packages/{name.replace('-', '_')}*")
        authors = about.get("Author") or about.get("Author-email") or "its authors"
        print(f"Copyright: {authors}")
        print(f"License: {license_of(about)}")
        print(f" Version {found[name].version}. Its files beside this one have the text.\n")


if __name__ == "__main__":
    main()
