"""The configs that come with the suite, one TOML file a result."""

if __name__ == "configs":
    raise ImportError("import rlsuite.configs, not configs")
