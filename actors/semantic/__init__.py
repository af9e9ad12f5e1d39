"""The semantic router: which model a prompt is for, by routes that examples describe."""
