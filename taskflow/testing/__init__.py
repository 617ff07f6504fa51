"""Tools to test workflows, and stores, as hard as taskflow tests itself."""

from taskflow.testing.wrapped import WrappedStore

__all__ = ("WrappedStore",)
