"""The functions of ``busi_monai``, called by the commands of their names.

What they need is imported when they are called.
"""

__version__: str


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        return version("busi-monai")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0.0.0"
