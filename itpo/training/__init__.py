"""One run's training: the learner, who takes part, how it is built and evaluated."""
