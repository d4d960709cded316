"""Webhook endpoints, signing and delivery (not there yet; see README)."""
