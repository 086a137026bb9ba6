"""The language of text, by the model that ships inside py3langid or by a file of fastText."""

from __future__ import annotations

import struct
from collections import Counter
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lmdata.errors import ConfigError
from lmdata.tagging.byte_walk import ByteWalk
from lmdata.xxh3 import hash_file

_MOST_BYTES = 4096  # of a document: what follows hardly changes what is said of it
_LEAST_BYTES = 20  # of a paragraph: what is shorter is hardly told
_MAGIC, _VERSIONS = 793712314, (11, 12)
_LABEL = "__label__"


class LanguageModel(Protocol):
    """Tells languages; one that is asked twice says the same."""

    @property
    def version(self) -> str:
        """Name and version, kept with what it tells."""

    def label(self, text: bytes) -> tuple[str, float, str]:
        """Return the language of a text, how sure that is in [0, 1], and the second one.

        Args:
            text: UTF-8, of which the beginning is read
        """


class Py3langidModel:
    """The model inside py3langid: 139 languages, and `zxx` for what is in none."""

    def __init__(self) -> None:
        try:
            self.version = f"py3langid-{metadata.version('py3langid')}"
        except metadata.PackageNotFoundError as error:
            raise ConfigError(
                "language=py3langid needs the py3langid package: pip install "
                "'lmdata-lmmodel[language]', or take language=none"
            ) from error

    @cached_property
    def _walk(self) -> ByteWalk:
        """Of the model, which takes most of a second to read: in workers alone."""
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return ByteWalk(LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True))

    def label(self, text: bytes) -> tuple[str, float, str]:
        """Return the language of a text, how sure that is in [0, 1], and the second one."""
        return self._walk.rank(_beginning(text))


class FastTextModel:
    """A model in a file of fastText, as lid.176, OpenLID and GlotLID are."""

    def __init__(self, path: Path) -> None:
        check_fasttext(path)
        try:
            from fasttext.FastText import _FastText
        except ImportError as error:
            raise ConfigError(
                "language_model needs a package that reads fastText's files: pip install "
                "'lmdata-lmmodel[fasttext]', or take --language py3langid"
            ) from error
        self.version = f"fasttext-{path.name}-{hash_file(path)}"
        self._model: Any = _FastText(model_path=str(path)).f

    def label(self, text: bytes) -> tuple[str, float, str]:
        """Return the language of a text, how sure that is in [0, 1], and the second one."""
        line = " ".join(_beginning(text).split()) + "\n"
        found = self._model.predict(line, 2, 0.0, "strict")
        labels = [label.removeprefix(_LABEL) for _, label in found]
        return labels[0], min(float(found[0][0]), 1.0), labels[-1]


def _beginning(text: bytes) -> str:
    return text[:_MOST_BYTES].decode("utf-8", errors="ignore")


def share_languages(text: bytes, model: LanguageModel) -> Counter[str]:
    """Return the bytes of paragraphs in each language; a paragraph is a line, short ones are not.

    Args:
        text: UTF-8 of a document
        model: that tells languages
    """
    sizes = Counter[str]()
    for line in text.split(b"\n"):
        if len(line.strip()) >= _LEAST_BYTES:
            sizes[model.label(line)[0]] += len(line)
    return sizes


def check_fasttext(path: Path) -> None:
    """Check that a file is a model of fastText that tells labels, and whole.

    The library itself takes one that was cut off, and answers wrongly.

    Raises:
        ConfigError: it can't be read, is something else, or damaged
    """
    try:
        with path.open("rb") as file:
            is_whole = _read_model(file) and not file.read(1)
    except OSError as error:
        raise ConfigError(f"language_model: can't read {path}: {error.strerror}") from error
    except (struct.error, OverflowError, ValueError):
        is_whole = False
    if not is_whole:
        raise ConfigError(
            f"language_model: {path} is no whole model of fastText that tells labels: give a .bin "
            "or .ftz file, such as lid.176.ftz"
        )


def _read_model(file: BinaryIO) -> bool:
    """Go through the parts of a model, and return whether they are those of one."""
    if _take(file, "<2i") not in [(_MAGIC, version) for version in _VERSIONS]:
        return False
    _take(file, "<12id")  # dimensions and the like
    num_entries, _, num_labels = _take(file, "<3i")
    _, num_pruned = _take(file, "<2q")
    if num_labels < 2 or not num_labels <= num_entries < 1 << 28:
        return False
    if not _skip_words(file, num_entries):
        return False
    _skip(file, 8 * max(0, num_pruned))
    for _ in range(2):  # the input matrix, the output matrix
        (is_quantized,) = _take(file, "<?")
        _skip_quantized(file) if is_quantized else _skip_matrix(file)
    return True


def _skip_words(file: BinaryIO, num_entries: int) -> bool:
    """Go behind the dictionary: text up to a zero, how often it was seen, and its kind."""
    left, begun = num_entries, file.tell()
    while left:
        block = file.read(1 << 20)
        here = 0
        while left and (end := block.find(b"\0", here)) >= 0 and end + 10 <= len(block):
            if block[end + 9] > 1:
                return False
            here, left = end + 10, left - 1
        if here == 0:
            return False
        begun += here
        file.seek(begun)
    return True


def _skip_matrix(file: BinaryIO) -> None:
    rows, columns = _take(file, "<2q")
    _skip(file, 4 * rows * columns)


def _skip_quantized(file: BinaryIO) -> None:
    has_norms, rows, _, num_codes = _take(file, "<?2qi")
    _skip(file, num_codes)
    _skip_centroids(file)
    if has_norms:
        _skip(file, rows)
        _skip_centroids(file)


def _skip_centroids(file: BinaryIO) -> None:
    dimension, *_ = _take(file, "<4i")
    _skip(file, 4 * 256 * dimension)


def _take(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _skip(file: BinaryIO, num_bytes: int) -> None:
    """Go on by so many bytes that must be there."""
    if num_bytes < 0:
        raise ValueError(f"a part of {num_bytes} bytes")
    if num_bytes:
        file.seek(num_bytes - 1, 1)
        if not file.read(1):
            raise ValueError("the file ends before its part does")
