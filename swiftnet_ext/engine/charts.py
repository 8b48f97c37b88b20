def learning_curves(history, path, title):
    pass
