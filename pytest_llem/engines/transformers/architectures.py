"""Which of transformers' classes generate text for a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# A model of text and images answers a prompt without images with its text part alone.
_AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")


def generating_class(config: PretrainedConfig) -> Any:
    """The auto class that transformers, or the code that came with the model, names for ``config``.

    Raises:
        LoadError: there is none.
    """
    import transformers

    brought = getattr(config, "auto_map", None) or {}
    for name in _AUTO_CLASSES:
        # Releases differ in what they have.
        auto_class = getattr(transformers, name, None)
        if auto_class is not None and (name in brought or type(config) in auto_class._model_mapping):
            return auto_class
    message = f"transformers {transformers.__version__} generates no text with its architecture, {config.model_type!r}"
    raise LoadError(f"{message}; only decoder-only models are measured")
