"""What runs in sessions: payloads, and jobs with their holders."""
