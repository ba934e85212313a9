"""Files that ship with the package; read them through :mod:`importlib.resources`."""
