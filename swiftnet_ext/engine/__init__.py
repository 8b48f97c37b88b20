"""What is done with networks: predicting and evaluating."""
