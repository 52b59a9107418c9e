"""The schemas' life: rules, published versions, registration."""
