"""The training loop and what it is made of.

loop         the algorithm, top to bottom
trainer      players, phases and methods as one object: one iteration, and its state
plan         from a configuration to players, phases and methods
phases       what is due when, and the passes that make up a step; batch, what they work on
passes       what the discriminator's and the generator's steps minimise
stepper      one step of one player; weighing, how its values weigh; guard, those that are not finite
player       a module, what of it trains, its optimizer and its engine
feeds        the streams of images and of the generator's source
record       rows, curves and grids of samples, when they are due; a progress bar
evaluator    metrics while training, and which checkpoint is best
saver        checkpoints: when, what is kept
"""
