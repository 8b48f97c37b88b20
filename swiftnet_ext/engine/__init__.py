"""What is done with networks: training, predicting, evaluating and exporting."""
