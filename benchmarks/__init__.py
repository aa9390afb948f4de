"""Every speed that we claim has its command here."""
