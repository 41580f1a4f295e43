"""The development world's judge: score tables in, ``report.json``, figures and one HTML report out."""
