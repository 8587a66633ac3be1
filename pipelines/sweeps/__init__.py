"""Many runs started by one command: jobs, how they ended, and searches over settings."""
