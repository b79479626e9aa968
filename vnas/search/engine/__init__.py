"""The loop of a study: who asks, who works, what is kept, and what happens when something breaks."""
