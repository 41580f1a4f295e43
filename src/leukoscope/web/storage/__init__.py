"""Records: cases, reviews, kept pictures and the audit log, in SQLite or any database SQLAlchemy speaks to."""
