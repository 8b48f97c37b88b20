"""What is done with networks: predicting, evaluating and exporting."""
