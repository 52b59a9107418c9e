"""The consumer: one worker process reads topics from its own positions and hands batches on."""
