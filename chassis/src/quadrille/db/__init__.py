"""The service's database: connections, tables with their migrations, the audit chain, retention."""
