"""What a user wants, how it answers, and how a finished conversation is scored; a new task is one file and its entry."""
