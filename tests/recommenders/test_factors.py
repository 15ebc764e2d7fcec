from llm_tail.recommenders.factors import Bpr, FeatureFactors, SampledSoftmaxFactors

from .contracts import Checkerboard, RecommenderContract


class TestBpr(RecommenderContract):
    def make(self):
        return Bpr(factors=4)


class TestSampledSoftmaxFactors(RecommenderContract):
    def make(self):
        return SampledSoftmaxFactors(factors=8, learning_rate=0.3, epochs=30)


class TestFeatureFactors(RecommenderContract):
    def make(self):
        return FeatureFactors(factors=8, learning_rate=0.3, epochs=30)


class TestFeatureFactorsOfWords(RecommenderContract):
    def make(self):
        return FeatureFactors(Checkerboard().catalog, features="words", factors=8, learning_rate=0.3, epochs=30)
