"""The language of documents, by the model that ships inside py3langid."""

from __future__ import annotations

from importlib import metadata

from lmdata.errors import ConfigError

_MOST_BYTES = 4096  # of a document: what follows hardly changes what is said of it


class LanguageModel:
    """Tells languages; one that is asked twice says the same."""

    def __init__(self) -> None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise ConfigError(
                "language=py3langid needs the py3langid package: pip install "
                "'lmdata-lmmodel[language]', or take language=none"
            ) from error
        self.version = f"py3langid-{metadata.version('py3langid')}"
        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def label(self, text: bytes) -> tuple[str, float, str]:
        """Return the language of a document, how sure that is in [0, 1], and the second one.

        Args:
            text: UTF-8, of which the beginning is read
        """
        content = text[:_MOST_BYTES].decode("utf-8", errors="ignore")
        first, second = self._model.rank(content)[:2]
        return str(first[0]), float(first[1]), str(second[0])
