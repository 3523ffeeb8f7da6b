"""Each reader on a small real file of its format."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

from adapter_service.sample_corpus.readers import android, chromium, cldr, firefox, messages, udhr
from adapter_service.sample_corpus.readers.gettext_catalogues import read_django

TAGS = ("en-GB", "hi-IN", "bn", "ta", "te", "gu-IN", "mr", "ur", "pa-IN", "kn")


def archive(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_fluent_texts_are_paired_by_place_and_key_with_the_brand_filled_in(tmp_path: Path) -> None:
    for tag in TAGS:
        text = "खोलें" if tag == "hi-IN" else "Open"
        first = f"go = {text} {{ -brand-short-name }}"
        lines = (first, "    .accesskey = O", "    .label =", f"        {text}", "        it")
        archive(tmp_path / f"langpack-{tag}@x.xpi", {f"browser/{tag}/menu.ftl": "\n".join(lines)})
    hindi = [(p.source, p.target) for p in firefox.read(tmp_path, "firefox") if p.language == "hi"]
    assert hindi == [("Open Firefox", "खोलें Firefox"), ("Open it", "खोलें it")]


def pak(texts: dict[int, str]) -> bytes:
    head = struct.pack("<IB3xHH", 5, 1, len(texts), 0)
    at, index, body = len(head) + 6 * (len(texts) + 1), b"", b""
    for identifier, text in texts.items():
        index += struct.pack("<HI", identifier, at + len(body))
        body += text.encode()
    return head + index + struct.pack("<HI", 0, at + len(body)) + body


def test_chromium_packs_are_paired_by_number(tmp_path: Path) -> None:
    (tmp_path / "en-GB.pak").write_bytes(pak({7: "Close", 9: "Only English"}))
    (tmp_path / "ml.pak").write_bytes(pak({7: "അടയ്ക്കുക"}))
    assert [(p.source, p.target, p.language) for p in chromium.read(tmp_path, "x")] == [("Close", "അടയ്ക്കുക", "ml")]


def string_pool(texts: list[str]) -> bytes:
    data = b"".join(bytes([len(t), len(t.encode())]) + t.encode() + b"\0" for t in texts)
    starts = [sum(len(t.encode()) + 3 for t in texts[:n]) for n in range(len(texts))]
    head = struct.pack("<IIIII", len(texts), 0, 0x100, 28 + 4 * len(texts), 0)
    offsets = struct.pack(f"<{len(texts)}I", *starts)
    return struct.pack("<HHI", 1, 28, 28 + len(offsets) + len(data)) + head + offsets + data


def string_type(language: bytes, index: int) -> bytes:
    config = struct.pack("<II2s2s", 28, 0, language, b"") + bytes(16)
    entry = struct.pack("<HHI", 8, 0, 0) + struct.pack("<HBBI", 8, 0, 3, index)
    size = 20 + len(config)
    head = struct.pack("<HHIBBHII", 0x201, size, size + 4 + len(entry), 1, 0, 0, 1, size + 4)
    return head + config + struct.pack("<I", 0) + entry


def test_android_tables_are_paired_by_type_and_entry(tmp_path: Path) -> None:
    types = string_type(b"", 0) + string_type(b"ta", 1)
    package = struct.pack("<HHI", 0x200, 288, 288 + len(types)) + bytes(280) + types
    body = string_pool(["Unlock", "திற"]) + package
    table = struct.pack("<HHII", 2, 12, 12 + len(body), 1) + body
    archive(tmp_path / "framework-res.apk", {"resources.arsc": table})
    assert [(p.source, p.target, p.language) for p in android.read(tmp_path, "x")] == [("Unlock", "திற", "ta")]


def test_fuzzy_and_plural_messages_are_left_out(tmp_path: Path) -> None:
    content = """msgid "Yes"\nmsgstr "हाँ"\n\n#, fuzzy\nmsgid "No"\nmsgstr "नहीं"\n
msgid "%d day"\nmsgid_plural "%d days"\nmsgstr[0] "%d दिन"\n\nmsgid ""\n"Two "\n"lines"\nmsgstr "दो"\n"""
    wheel = archive(tmp_path / "d.whl", {"django/conf/locale/hi/LC_MESSAGES/django.po": content})
    assert [(p.source, p.target) for p in read_django(wheel, "django")] == [
        ("Yes", "हाँ"),
        ("Two lines", "दो"),
    ]


def test_kolibri_messages_are_paired_with_or_without_context(tmp_path: Path) -> None:
    place = "kolibri/locale/{}/LC_MESSAGES/learn-messages.json"
    english = json.dumps({"A.a": {"message": "Start", "context": "button"}, "A.b": "Stop"})
    marathi = json.dumps({"A.a": "सुरू", "A.b": "थांबा"})
    wheel = archive(tmp_path / "k.whl", {place.format("en"): english, place.format("mr"): marathi})
    found = [(p.source, p.target, p.language) for p in messages.read_kolibri(wheel, "kolibri")]
    assert found == [("Start", "सुरू", "mr"), ("Stop", "थांबा", "mr")]


def test_reserved_articles_are_never_read(tmp_path: Path) -> None:
    folder = tmp_path / "package" / "declaration"
    folder.mkdir(parents=True)
    for page in ("eng", "hin", "ben", "tam", "tel", "guj", "mar", "urd", "pan", "kan", "mal"):
        articles = "".join(f'<article data-number="{n}"><p>One {n}. Two {n}.</p></article>' for n in range(1, 31))
        (folder / f"{page}.html").write_text(articles, encoding="utf-8")
    read = {p.source for p in udhr.read(tmp_path, "udhr")}
    assert "One 4." in read
    assert read.isdisjoint(f"One {n}." for n in (5, 11, 17, 23, 29))


def test_emoji_have_names_and_arrows_do_not(tmp_path: Path) -> None:
    names = {"en": ("cat", "arrow"), "hi": ("बिल्ली", "तीर")}
    for tag in ("en", "hi", "bn", "ta", "te", "gu", "mr", "ur", "pa", "kn", "ml"):
        cat, arrow = names.get(tag, names["hi"])
        entries = {"🐈": {"tts": [cat]}, "↖": {"tts": [arrow]}}
        folder = tmp_path / "package" / "annotations" / tag
        folder.mkdir(parents=True)
        (folder / "annotations.json").write_text(json.dumps({"annotations": {"annotations": entries}}), "utf-8")
    hindi = [p for p in cldr.read_annotations(tmp_path, "cldr-annotations") if p.language == "hi"]
    assert [(p.source, p.target) for p in hindi] == [("cat", "बिल्ली")]
