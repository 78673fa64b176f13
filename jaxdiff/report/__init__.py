"""Pictures, status and the HTML page of a run."""
