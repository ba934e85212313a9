"""Backend ``tensorrt``: models in the ``LLM`` of TensorRT-LLM. Start with ``engine``."""
