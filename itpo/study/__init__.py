"""The replication's questions: profiles, statistics, tables, claims, the credit oracle."""
