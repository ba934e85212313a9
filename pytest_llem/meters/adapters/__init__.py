"""What other energy tools report, to compare with."""
