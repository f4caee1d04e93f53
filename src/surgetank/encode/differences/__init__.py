"""A value as what it has more or other than an older one: for the buffer (delta) and the database
(patch). Pure."""
