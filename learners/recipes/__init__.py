"""Recipes: one TOML file per setting that was run."""
