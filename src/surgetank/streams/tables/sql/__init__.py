"""The statements of user tables: text to frozen values, and what each of them does."""
