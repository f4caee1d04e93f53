"""The shapes of answers and requests, as OpenAPI tells them."""
