"""The versions of the store's tables, a file each: Alembic's revisions, whose `upgrade` takes the operations."""
