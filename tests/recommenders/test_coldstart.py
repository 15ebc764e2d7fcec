from llm_tail.recommenders.coldstart import ClcRec, DropoutNet

from .contracts import RecommenderContract


class TestClcRec(RecommenderContract):
    def make(self):
        return ClcRec(factors=8, hidden=16, learning_rate=0.3, epochs=60, contrast=0.3)


class TestDropoutNet(RecommenderContract):
    def make(self):
        return DropoutNet(factors=2, hidden=32, learning_rate=1e-2, epochs=100)


class TestDropoutNetOfSingularVectors(RecommenderContract):
    def make(self):
        return DropoutNet(factors=2, preferences="svd", hidden=32, learning_rate=1e-2, epochs=100)
