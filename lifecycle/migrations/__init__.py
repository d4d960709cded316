"""Alembic migrations of the database of models; :mod:`lifecycle.database` runs them."""
