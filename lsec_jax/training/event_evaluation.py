class ImpressionEvaluator:
    def __init__(self, *a):
        pass

    def check(self, *a):
        pass

    def validation_users(self, split="validation"):
        return None

    def baseline_scorers(self):
        return {}
