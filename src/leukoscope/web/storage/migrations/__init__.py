"""Alembic migrations of the records; applied by ``storage.database.Database.migrate``."""
