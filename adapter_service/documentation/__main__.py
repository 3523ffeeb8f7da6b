"""`make docs`: the README's tables and the Postman collection; `--check` fails when they are not what the code says."""

from __future__ import annotations

import sys

from adapter_service.documentation import README
from adapter_service.documentation.postman import COLLECTION, collection_text
from adapter_service.documentation.tables import api_document, generated, measured_here, with_quality_of
from adapter_service.settings import Settings


def main(arguments: list[str]) -> int:
    """Write both files anew, or with `--check` only compare; 1 when one differs."""
    text = README.read_text()
    readme = generated(text)
    if "--check" in arguments and measured_here():
        readme = with_quality_of(readme, text)
    wanted = {README: readme, COLLECTION: collection_text(api_document(), Settings())}
    differing = [path for path in wanted if not path.exists() or path.read_text() != wanted[path]]
    if "--check" not in arguments:
        for path in differing:
            path.write_text(wanted[path])
        return 0
    for path in differing:
        sys.stderr.write(f"{path.name} is not what the code says; run `make docs`\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
