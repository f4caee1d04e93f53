"""The durable side: where entries come to rest."""
