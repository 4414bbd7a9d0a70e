"""What people run: the command line, chat, export and model cards."""
