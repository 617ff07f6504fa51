from taskflow.runtime.runtime import Runtime

__all__ = ("Runtime",)
