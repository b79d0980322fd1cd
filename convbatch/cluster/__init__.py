"""A run on several processes: workers that ask and read, and one coordinator that counts, admits and writes."""
