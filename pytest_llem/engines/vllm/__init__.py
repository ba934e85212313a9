"""Backend ``vllm``: models in vLLM's offline ``LLM``. Start with ``engine``."""
