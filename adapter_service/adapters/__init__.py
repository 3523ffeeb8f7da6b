"""Adapter versions: immutable folders on disk (`artifact`), which one is live (`versions`), and what is
still to be pushed to stores (`uploads`)."""

from adapter_service.adapters.artifact import check_files, check_name, version_key
from adapter_service.adapters.versions import Version, VersionStatus, VersionStore

__all__ = ["Version", "VersionStatus", "VersionStore", "check_files", "check_name", "version_key"]
