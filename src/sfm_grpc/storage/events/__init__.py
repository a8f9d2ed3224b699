"""Where events go from the outbox, which has them whether anyone takes them or not."""
