"""Networks of published folders, with their parameters: one reader and one writer."""
