"""What a user of lmdata can cause and mend.

LmdataError
  ConfigError       a setting is unknown, of the wrong type or out of range
  CorpusError       input text is missing, broken or not what the options say
  TokenizerError    a tokenizer can't be trained, loaded or used for this
  DatasetError      a token store or example shards can't be opened
    IntegrityError    files are missing, truncated, swapped or altered
    VersionError      written by a newer format version
    MismatchError     made with another tokenizer, source or option
  OutputError       the output exists, can't be written or the disk is full
"""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number of things in words.

    Example:
        >>> counted(1, "step"), counted(20_000, "step")
        ('1 step', '20,000 steps')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class LmdataError(Exception):
    """Something that a user can cause and correct; its text is one line that says how."""


class ConfigError(LmdataError):
    """A setting is unknown, of the wrong type or out of range."""


class CorpusError(LmdataError):
    """Input text is missing, broken or not what the options say."""


class TokenizerError(LmdataError):
    """A tokenizer can't be trained, loaded or used for this."""


class DatasetError(LmdataError):
    """A token store or example shards can't be opened."""


class IntegrityError(DatasetError):
    """Files of a dataset are missing, truncated, swapped or altered."""


class VersionError(DatasetError):
    """A dataset was written by a newer format version."""


class MismatchError(DatasetError):
    """A dataset or an unfinished build was made with another tokenizer, source or option."""


class OutputError(LmdataError):
    """The output exists, can't be written or the disk is full."""
