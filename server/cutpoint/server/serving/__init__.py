"""What is served: models in agreement with the repository, one default, perhaps one in the shadow."""
