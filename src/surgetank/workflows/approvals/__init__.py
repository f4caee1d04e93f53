"""What graphs ask people, and the one way in which it is answered."""
