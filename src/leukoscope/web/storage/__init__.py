"""Records: cases, reviews, stored pictures and the audit log, in SQLite or any database that SQLAlchemy supports."""
