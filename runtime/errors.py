"""What can be wrong with what a user hands us. Each message is one sentence: the file, the key, the mend."""

from __future__ import annotations


class TrimtabError(ValueError):
    """A user's config, bundle, payload or recording cannot be used as it stands."""


class ConfigError(TrimtabError):
    """A configuration file is missing, malformed or contradicts itself or the bundle."""


class BundleError(TrimtabError):
    """A bundle is missing, incomplete, altered or of another schema."""


class PayloadError(TrimtabError):
    """A message on a sensor topic cannot be decoded."""


class RecordingError(TrimtabError):
    """A recording cannot be read."""


class ProviderError(TrimtabError):
    """A required execution provider, or ONNX Runtime itself, is missing."""


class InferenceError(RuntimeError):
    """ONNX Runtime failed on a batch; the sessions stay usable."""


class ExportError(TrimtabError):
    """A model, or what was said about it, cannot be made into a bundle."""


class NoAnswerError(TrimtabError):
    """A daemon did not answer a command, or is away."""


class JournalError(TrimtabError):
    """The journal cannot be used: of a newer trimtab, damaged, in use, or not writable."""
