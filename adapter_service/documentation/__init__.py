"""What is written from the code or from a run, and not by hand: tables, the Postman collection, outputs of commands."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
