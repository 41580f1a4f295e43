"""The web application: pages and API over one predictor, with storage, review and an audit log."""
