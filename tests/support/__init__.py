"""What tests share: a real PostgreSQL, sample objects, small fakes, polling."""
