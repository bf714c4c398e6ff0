"""Alembic's entry: the connection is the service's own."""

from alembic import context

from travelcard.service.database import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
