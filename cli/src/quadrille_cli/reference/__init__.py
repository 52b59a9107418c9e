"""Reference pages made from the program itself: its metrics, its channels and messages."""
