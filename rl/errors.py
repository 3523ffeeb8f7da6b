"""Every error that this package raises on purpose.

    EpisodesError
    ├── ConfigError        rl_config.yaml, an option or a variable
    ├── RecordError        what shall be recorded is no episode
    ├── ServiceError       the service does not answer, or not as it should
    └── UploadError
        ├── UnreachableError   away, busy or cut off: another try may succeed
        ├── DifferentError     something else lies under that name; nothing is ever overwritten
        └── RefusedError       not allowed, or not there: a person has to mend it

A message has the value found, the value wanted and the next action, and never a secret.
"""

from __future__ import annotations


class EpisodesError(Exception):
    """Root of the tree."""


class ConfigError(EpisodesError):
    pass


class RecordError(EpisodesError):
    pass


class ServiceError(EpisodesError):
    pass


class UploadError(EpisodesError):
    pass


class UnreachableError(UploadError):
    pass


class DifferentError(UploadError):
    pass


class RefusedError(UploadError):
    pass
